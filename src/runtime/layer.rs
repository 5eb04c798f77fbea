//! The layers of `bootstrap.layered_runtime`.

use std::path::{Path, PathBuf};

use crate::{
    api::envoy::config::{
        bootstrap::v3::{
            LayeredRuntime, RuntimeLayer,
            runtime_layer::{AdminLayer, DiskLayer, LayerSpecifier, RtdsLayer},
        },
        core::v3::ConfigSource,
    },
    config::{At, Reported},
};

use super::{
    disk::{self, DiskError},
    value::{Values, flatten},
};

/// One layer and the values it has now.
#[derive(Clone, Debug)]
pub struct Layer {
    name: String,
    kind: Kind,
    values: Values,
}

#[derive(Clone, Debug)]
enum Kind {
    Static,
    Admin,
    Disk(Disk),
    Discovered(Box<Discovered>),
}

#[derive(Clone, Debug)]
struct Disk {
    root: PathBuf,
    directory: PathBuf,
    /// Whether there was such a directory when it was last read.
    exists: bool,
}

/// A layer whose values come by RTDS.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// The layer's name.
    pub layer: Box<str>,
    /// Which of `layered_runtime.layers` it is.
    pub index: usize,
    /// The name of its `envoy.service.runtime.v3.Runtime`.
    pub resource: Box<str>,
    /// Where that comes from.
    pub source: ConfigSource,
}

impl Layer {
    /// An empty admin layer.
    pub fn admin(name: &str) -> Self {
        Self::new(name.to_owned(), Kind::Admin)
    }

    fn new(name: String, kind: Kind) -> Self {
        Self {
            name,
            kind,
            values: Values::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn frozen(self) -> Self {
        Self {
            kind: Kind::Static,
            ..self
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn values(&self) -> &Values {
        &self.values
    }

    pub(super) fn is_admin(&self) -> bool {
        matches!(self.kind, Kind::Admin)
    }

    pub(super) fn admin_values(&mut self) -> Option<&mut Values> {
        match self.kind {
            Kind::Admin => Some(&mut self.values),
            Kind::Static | Kind::Disk(_) | Kind::Discovered(_) => None,
        }
    }

    pub(super) fn root(&self) -> Option<&Path> {
        match &self.kind {
            Kind::Disk(disk) => Some(&disk.root),
            Kind::Static | Kind::Admin | Kind::Discovered(_) => None,
        }
    }

    pub(super) fn discovered(&self) -> Option<&Discovered> {
        match &self.kind {
            Kind::Discovered(discovered) => Some(discovered),
            Kind::Static | Kind::Admin | Kind::Disk(_) => None,
        }
    }

    pub(super) fn set_values(&mut self, values: Values) {
        self.values = values;
    }

    /// Whether it is a directory, and one that exists.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(&self.kind, Kind::Disk(disk) if disk.exists)
    }

    /// Whether it counts as a layer: a directory that does not exist is none.
    pub(super) fn exists(&self) -> bool {
        !matches!(&self.kind, Kind::Disk(disk) if !disk.exists)
    }

    pub(super) fn reload(&mut self) -> Result<(), DiskError> {
        if let Kind::Disk(disk) = &mut self.kind {
            let found = disk::read(&disk.directory)?;
            disk.exists = found.is_some();
            self.values = found.unwrap_or_default();
        }
        Ok(())
    }
}

/// Compiles the layers; none when `layered_runtime` is absent, as in Envoy.
/// `service_cluster` is `--service-cluster` or `node.cluster`.
///
/// # Errors
/// When two layers have one name, there are two admin layers, a static layer
/// holds a null or a list, or a layer is of a kind that is not supported.
pub fn compile(
    message: LayeredRuntime,
    service_cluster: &str,
    at: &At<'_>,
) -> Result<Vec<Layer>, Reported> {
    let LayeredRuntime { layers } = message;
    let mut compiled: Vec<Layer> = Vec::new();
    let mut outcome = Ok(());
    let list = at.field("layers");
    for (index, message) in layers.into_iter().enumerate() {
        let at = list.index(index);
        match compile_layer(index, message, service_cluster, &at) {
            Err(reported) => outcome = Err(reported),
            Ok(layer) if compiled.iter().any(|other| other.name == layer.name) => {
                let message = format!("duplicate layer name: {:?}", layer.name);
                outcome = Err(at.field("name").error(message));
            }
            Ok(layer) if layer.is_admin() && compiled.iter().any(Layer::is_admin) => {
                outcome = Err(at
                    .field("admin_layer")
                    .error("there may be one admin layer only"));
            }
            Ok(layer) => compiled.push(layer),
        }
    }
    outcome.map(|()| compiled)
}

fn compile_layer(
    index: usize,
    message: RuntimeLayer,
    service_cluster: &str,
    at: &At<'_>,
) -> Result<Layer, Reported> {
    let RuntimeLayer {
        name,
        layer_specifier,
    } = message;
    if name.is_empty() {
        return Err(at.field("name").error("is required"));
    }
    match layer_specifier {
        None => {
            Err(at.error("one of static_layer, disk_layer, admin_layer and rtds_layer is required"))
        }
        Some(LayerSpecifier::StaticLayer(object)) => match flatten(&object) {
            Ok(values) => Ok(Layer {
                values,
                ..Layer::new(name, Kind::Static)
            }),
            Err(error) => Err(at.field("static_layer").error(error)),
        },
        Some(LayerSpecifier::AdminLayer(AdminLayer {})) => Ok(Layer::new(name, Kind::Admin)),
        Some(LayerSpecifier::DiskLayer(disk)) => {
            let DiskLayer {
                symlink_root,
                append_service_cluster,
                subdirectory,
            } = disk;
            let root = PathBuf::from(symlink_root);
            let mut directory = root.join(subdirectory);
            if append_service_cluster {
                directory.push(service_cluster);
            }
            let exists = false;
            let disk = Disk {
                root,
                directory,
                exists,
            };
            Ok(Layer::new(name, Kind::Disk(disk)))
        }
        Some(LayerSpecifier::RtdsLayer(message)) => {
            let RtdsLayer {
                name: resource,
                rtds_config,
            } = message;
            let at = at.field("rtds_layer");
            let source = rtds_config.ok_or_else(|| at.field("rtds_config").error("is required"))?;
            let discovered = Discovered {
                layer: name.as_str().into(),
                index,
                resource: resource.into(),
                source,
            };
            Ok(Layer::new(name, Kind::Discovered(Box::new(discovered))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn layer(name: &str, layer_specifier: Option<LayerSpecifier>) -> RuntimeLayer {
        RuntimeLayer {
            name: name.to_owned(),
            layer_specifier,
        }
    }

    #[test]
    fn every_wrong_layer_is_named() {
        let admin = || Some(LayerSpecifier::AdminLayer(AdminLayer {}));
        let rtds = Some(LayerSpecifier::RtdsLayer(Default::default()));
        let message = LayeredRuntime {
            layers: vec![
                layer("a", admin()),
                layer("a", Some(LayerSpecifier::DiskLayer(Default::default()))),
                layer("b", admin()),
                layer("c", rtds),
                layer("d", None),
            ],
        };
        let report = Report::new();
        assert!(compile(message, "", &report.root().field("layered_runtime")).is_err());
        assert_eq!(
            report.to_string(),
            "layered_runtime.layers[1].name: duplicate layer name: \"a\"\n\
             layered_runtime.layers[2].admin_layer: there may be one admin layer only\n\
             layered_runtime.layers[3].rtds_layer.rtds_config: is required\n\
             layered_runtime.layers[4]: one of static_layer, disk_layer, admin_layer and \
             rtds_layer is required"
        );
    }
}
