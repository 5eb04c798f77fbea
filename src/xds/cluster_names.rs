//! Which clusters there are, for those who refer to them by name.

use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc, sync::Arc};

use crate::config::suggest;

/// Which clusters there are. Shared by the configurator, who tells of them, and
/// by all who refer to one.
#[derive(Debug, Default)]
pub struct ClusterNames {
    names: RefCell<HashMap<Arc<str>, Standing, foldhash::fast::RandomState>>,
    /// How many resources refer to a name.
    references: RefCell<HashMap<Arc<str>, usize, foldhash::fast::RandomState>>,
}

/// How far a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Requests do not find it yet: its first version warms, or is ready but
    /// has not been published.
    Warming,
    /// Requests find it.
    InForce,
}

impl ClusterNames {
    /// There is a cluster of this name. One that is in force stays so while its
    /// next version warms.
    pub fn exists(&self, name: &Arc<str>) {
        let mut names = self.names.borrow_mut();
        names.entry(name.clone()).or_insert(Standing::Warming);
    }

    /// Requests find it from now on.
    pub fn is_in_force(&self, name: &Arc<str>) {
        self.names
            .borrow_mut()
            .insert(name.clone(), Standing::InForce);
    }

    /// It has been taken away.
    pub fn is_gone(&self, name: &str) {
        self.names.borrow_mut().remove(name);
    }

    /// How far it is; `None` when there is none of that name.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        self.names.borrow().get(name).copied()
    }

    /// Whether a resource that is in force, or waits to be, leads to it.
    pub fn is_referred_to(&self, name: &str) -> bool {
        self.references.borrow().contains_key(name)
    }

    /// `, did you mean …?`, for a name that is not there.
    pub fn near(&self, name: &str) -> String {
        let names = self.names.borrow();
        suggest::near(name, names.keys().map(|known| known.to_string()))
    }
}

/// A name that a resource refers to.
pub struct Reference {
    names: Rc<ClusterNames>,
    name: Arc<str>,
}

impl Reference {
    /// A reference to the cluster of this name, whether there is one or not.
    pub fn new(names: &Rc<ClusterNames>, name: &str) -> Self {
        let mut references = names.references.borrow_mut();
        let known = references.get_key_value(name).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| name.into());
        *references.entry(name.clone()).or_default() += 1;
        drop(references);
        Self {
            names: names.clone(),
            name,
        }
    }

    /// The cluster's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether there is such a cluster.
    pub fn exists(&self) -> bool {
        self.names.standing(&self.name).is_some()
    }

    /// Whether there is such a cluster, which requests do not find yet.
    pub fn is_warming(&self) -> bool {
        self.names.standing(&self.name) == Some(Standing::Warming)
    }

    /// As `/init_dump` names it.
    pub fn target(&self) -> String {
        format!("Cluster {}", self.name)
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let mut references = self.names.references.borrow_mut();
        if let Some(count) = references.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                references.remove(&self.name);
            }
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reference").field(&self.name).finish()
    }
}
