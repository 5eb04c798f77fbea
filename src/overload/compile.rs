//! From `envoy.config.overload.v3.OverloadManager` to what runs.

use std::{sync::Arc, time::Duration};

use super::{
    Connections, Level, Manager, Overload, ShedPoint, Timers, action_stats,
    manager::{Monitored, Rule},
    monitor::Monitor,
    monitor_stats, point_stats,
    trigger::Trigger,
};
use crate::{
    api::envoy::{
        config::overload::v3::{
            self as pb, ScaleTimersOverloadActionConfig, ShrinkHeapConfig, resource_monitor,
        },
        extensions::resource_monitors::{
            cgroup_memory::v3::CgroupMemoryConfig,
            downstream_connections::v3::DownstreamConnectionsConfig,
            fixed_heap::v3::FixedHeapConfig, injected_resource::v3::InjectedResourceConfig,
        },
    },
    config::{self, At, Reported, type_name, unpack},
    refuse,
    stats::Registry,
};
use prost_types::Any;

/// `refresh_interval` when it is not set.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// What an action or load shed point does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// Sets a level.
    Level(fn(&Overload) -> &Level),
    /// Nothing: memory that is not used goes back to the system by itself.
    ShrinkHeap,
}

const ACTIONS: &[(&str, Target)] = &[
    (
        "envoy.overload_actions.stop_accepting_requests",
        Target::Level(|o| &o.stop_accepting_requests),
    ),
    (
        "envoy.overload_actions.disable_http_keepalive",
        Target::Level(|o| &o.disable_http_keepalive),
    ),
    (
        "envoy.overload_actions.stop_accepting_connections",
        Target::Level(|o| &o.stop_accepting_connections),
    ),
    (
        "envoy.overload_actions.reject_incoming_connections",
        Target::Level(|o| &o.reject_incoming_connections),
    ),
    (REDUCE_TIMEOUTS, Target::Level(|o| &o.reduce_timeouts.level)),
    (SHRINK_HEAP, Target::ShrinkHeap),
];
const REDUCE_TIMEOUTS: &str = "envoy.overload_actions.reduce_timeouts";
const SHRINK_HEAP: &str = "envoy.overload_actions.shrink_heap";

/// Both ways to a point: while it is set up, and for its level.
type Point = (fn(&mut Overload) -> &mut ShedPoint, Target);

macro_rules! points {
    ($($field:ident),* $(,)?) => {
        &[$((
            concat!("envoy.load_shed_points.", stringify!($field)),
            (|o| &mut o.$field, Target::Level(|o| &o.$field.level)),
        )),*]
    };
}

const POINTS: &[(&str, Point)] = points![
    tcp_listener_accept,
    http_connection_manager_decode_headers,
    hcm_ondata_creating_codec,
    http1_server_abort_dispatch,
    http2_server_go_away_on_dispatch,
    http_downstream_filter_check,
];

/// An overload manager, checked.
#[derive(Debug, Default)]
pub struct Settings {
    interval: Option<Duration>,
    monitors: Vec<(String, Monitor)>,
    connections: Option<(String, u64)>,
    actions: Vec<Wanted<Target>>,
    points: Vec<Wanted<Point>>,
    timers: Timers,
}

#[derive(Debug)]
struct Wanted<T> {
    name: String,
    target: T,
    /// By the place of the monitor.
    triggers: Vec<(usize, Trigger)>,
}

impl Settings {
    /// Compiles the message.
    ///
    /// # Errors
    /// What is wrong or not supported has been reported.
    pub fn compile(message: pb::OverloadManager, at: &At<'_>) -> Result<Self, Reported> {
        let pb::OverloadManager {
            refresh_interval,
            resource_monitors,
            actions,
            buffer_factory_config,
            loadshed_points,
        } = message;
        let mut outcome = refuse!(at; buffer_factory_config);
        let at_interval = at.field("refresh_interval");
        let interval = config::optional_duration(refresh_interval.as_ref(), &at_interval);
        let mut settings = Self::default();
        let at_monitors = at.field("resource_monitors");
        for (index, monitor) in resource_monitors.into_iter().enumerate() {
            outcome = outcome.and(settings.add_monitor(monitor, &at_monitors.index(index)));
        }
        let at_actions = at.field("actions");
        for (index, action) in actions.into_iter().enumerate() {
            outcome = outcome.and(settings.add_action(action, &at_actions.index(index)));
        }
        let at_points = at.field("loadshed_points");
        for (index, point) in loadshed_points.into_iter().enumerate() {
            outcome = outcome.and(settings.add_point(point, &at_points.index(index)));
        }
        settings.interval = interval?;
        outcome.map(|()| settings)
    }

    fn add_monitor(&mut self, message: pb::ResourceMonitor, at: &At<'_>) -> Result<(), Reported> {
        let pb::ResourceMonitor { name, config_type } = message;
        if self.monitors.iter().any(|(known, _)| *known == name) {
            let at = at.field("name");
            return Err(at.error(format_args!("Duplicate resource monitor {name}")));
        }
        let at = at.field("typed_config");
        let Some(resource_monitor::ConfigType::TypedConfig(any)) = config_type else {
            return Err(at.error("is required"));
        };
        let monitor = monitor(&any, &at)?;
        if let Monitor::Connections = monitor {
            let DownstreamConnectionsConfig {
                max_active_downstream_connections: most,
            } = unpack(&any, &at)?;
            // The API asks for one at least.
            self.connections = Some((name.clone(), most.unsigned_abs()));
        }
        self.monitors.push((name, monitor));
        Ok(())
    }

    fn add_action(&mut self, message: pb::OverloadAction, at: &At<'_>) -> Result<(), Reported> {
        let pb::OverloadAction {
            name,
            triggers,
            typed_config,
        } = message;
        let target = named(&name, ACTIONS, "overload action", &at.field("name"))?;
        if self.actions.iter().any(|known| known.name == name) {
            let at = at.field("name");
            return Err(at.error(format_args!("Duplicate overload action {name}")));
        }
        let at_config = at.field("typed_config");
        match (&*name, typed_config) {
            (REDUCE_TIMEOUTS, Some(any)) => {
                let message: ScaleTimersOverloadActionConfig = unpack(&any, &at_config)?;
                self.timers = Timers::compile(message, &at_config)?;
            }
            (REDUCE_TIMEOUTS, None) => return Err(at_config.error("is required")),
            (SHRINK_HEAP, Some(any)) => {
                // When and how much: nothing has to be shrunk here.
                let ShrinkHeapConfig {
                    timer_interval: _,
                    max_unfreed_memory_bytes: _,
                } = unpack(&any, &at_config)?;
            }
            (_, None) => {}
            (_, Some(_)) => {
                return Err(at_config.error(format_args!("{name} has no configuration")));
            }
        }
        let triggers = self.triggers(triggers, &name, &at.field("triggers"))?;
        self.actions.push(Wanted {
            name,
            target,
            triggers,
        });
        Ok(())
    }

    fn add_point(&mut self, message: pb::LoadShedPoint, at: &At<'_>) -> Result<(), Reported> {
        let pb::LoadShedPoint { name, triggers } = message;
        let target = named(&name, POINTS, "load shed point", &at.field("name"))?;
        if self.points.iter().any(|known| known.name == name) {
            let at = at.field("name");
            return Err(at.error(format_args!("Duplicate loadshed point {name}")));
        }
        let triggers = self.triggers(triggers, &name, &at.field("triggers"))?;
        self.points.push(Wanted {
            name,
            target,
            triggers,
        });
        Ok(())
    }

    fn triggers(
        &self,
        messages: Vec<pb::Trigger>,
        of: &str,
        at: &At<'_>,
    ) -> Result<Vec<(usize, Trigger)>, Reported> {
        let mut triggers: Vec<(usize, Trigger)> = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            let at = at.index(index);
            let pb::Trigger {
                name,
                trigger_oneof,
            } = message;
            let trigger = Trigger::compile(trigger_oneof, &at)?;
            let at = at.field("name");
            let Some(monitor) = self.monitors.iter().position(|(known, _)| *known == name) else {
                return Err(at.error(format_args!(
                    "Unknown trigger resource {name} for overload action {of}"
                )));
            };
            if triggers.iter().any(|(known, _)| *known == monitor) {
                return Err(at.error(format_args!(
                    "Duplicate trigger resource for overload action {of}"
                )));
            }
            if let Monitor::Connections = self.monitors[monitor].1 {
                at.warn("refuses connections by itself and never triggers anything, as in Envoy");
            }
            triggers.push((monitor, trigger));
        }
        Ok(triggers)
    }

    /// What workers read, and what keeps it up to date.
    pub fn start(self, registry: &Arc<Registry>) -> (Arc<Overload>, Manager) {
        let block = |name: &str, table| registry.block(&format!("overload.{name}."), table);
        let mut overload = Overload {
            reduce_timeouts: self.timers,
            connections: (self.connections)
                .map(|(name, most)| Connections::new(most, registry, &name)),
            ..Overload::default()
        };
        let actions = self.actions.into_iter().map(|wanted| Rule {
            stats: block(&wanted.name, &action_stats::TABLE),
            is_action: true,
            name: wanted.name,
            target: wanted.target,
            triggers: wanted.triggers,
        });
        let mut rules: Vec<_> = actions.collect();
        for wanted in self.points {
            let stats = block(&wanted.name, &point_stats::TABLE);
            let (place, target) = wanted.target;
            place(&mut overload).stats = Some(stats.clone());
            rules.push(Rule {
                stats,
                is_action: false,
                name: wanted.name,
                target,
                triggers: wanted.triggers,
            });
        }
        let monitors = self.monitors.into_iter().map(|(name, monitor)| Monitored {
            stats: block(&name, &monitor_stats::TABLE),
            name,
            monitor,
            pressure: 0.0,
            failing: false,
        });
        let monitors = monitors.collect();
        let overload = Arc::new(overload);
        let interval = self.interval.unwrap_or(REFRESH_INTERVAL);
        let manager = Manager::new(overload.clone(), monitors, rules, interval, registry);
        (overload, manager)
    }
}

fn named<T: Copy>(name: &str, all: &[(&str, T)], noun: &str, at: &At<'_>) -> Result<T, Reported> {
    match all.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => Ok(*target),
        None => {
            let known: Vec<_> = all.iter().map(|(known, _)| *known).collect();
            Err(at.error(format_args!(
                "the {noun} {name:?} is not supported; there are {known:?}"
            )))
        }
    }
}

fn monitor(any: &Any, at: &At<'_>) -> Result<Monitor, Reported> {
    const PREFIX: &str = "envoy.extensions.resource_monitors.";
    let kind = type_name(any);
    match kind.strip_prefix(PREFIX) {
        Some("injected_resource.v3.InjectedResourceConfig") => {
            let InjectedResourceConfig { filename } = unpack(any, at)?;
            Ok(Monitor::Injected {
                path: filename.into(),
                read: None,
            })
        }
        Some("fixed_heap.v3.FixedHeapConfig") => {
            let FixedHeapConfig {
                max_heap_size_bytes,
                max_heap_size_bytes_runtime,
            } = unpack(any, at)?;
            refuse!(at; max_heap_size_bytes_runtime)?;
            match max_heap_size_bytes {
                0 => Err(at
                    .field("max_heap_size_bytes")
                    .error("fixed_heap: max heap size must be greater than 0")),
                most => Ok(Monitor::Heap(most)),
            }
        }
        Some("cgroup_memory.v3.CgroupMemoryConfig") => {
            let CgroupMemoryConfig { max_memory_bytes } = unpack(any, at)?;
            Ok(Monitor::Cgroup(
                Some(max_memory_bytes).filter(|most| *most > 0),
            ))
        }
        Some("downstream_connections.v3.DownstreamConnectionsConfig") => Ok(Monitor::Connections),
        _ => Err(at.error(format_args!(
            "the resource monitor {kind:?} is not supported; there are injected_resource, \
             fixed_heap, cgroup_memory and downstream_connections"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api, config::Report};
    use prost::{Message, Name};

    const INJECTED: &str = "envoy.resource_monitors.injected_resource";

    fn monitor_of(name: &str) -> pb::ResourceMonitor {
        let config = InjectedResourceConfig {
            filename: "/pressure".to_owned(),
        };
        pb::ResourceMonitor {
            name: name.to_owned(),
            config_type: Some(resource_monitor::ConfigType::TypedConfig(Any {
                type_url: format!(
                    "{}{}",
                    api::TYPE_URL_PREFIX,
                    InjectedResourceConfig::full_name()
                ),
                value: config.encode_to_vec(),
            })),
        }
    }

    fn trigger(name: &str) -> pb::Trigger {
        pb::Trigger {
            name: name.to_owned(),
            trigger_oneof: Some(pb::trigger::TriggerOneof::Threshold(pb::ThresholdTrigger {
                value: 0.5,
            })),
        }
    }

    fn action(name: &str, triggers: Vec<pb::Trigger>) -> pb::OverloadAction {
        pb::OverloadAction {
            name: name.to_owned(),
            triggers,
            typed_config: None,
        }
    }

    fn said(actions: Vec<pb::OverloadAction>, monitors: &[&str]) -> String {
        let message = pb::OverloadManager {
            resource_monitors: monitors.iter().map(|name| monitor_of(name)).collect(),
            actions,
            ..pb::OverloadManager::default()
        };
        let report = Report::new();
        match Settings::compile(message, &report.root()) {
            Ok(_) => String::new(),
            Err(_) => report.to_string(),
        }
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        let shrink = |triggers: &[&str]| {
            let triggers = triggers.iter().map(|name| trigger(name)).collect();
            action(SHRINK_HEAP, triggers)
        };
        assert_eq!(said(vec![shrink(&[INJECTED])], &[INJECTED]), "");
        for (actions, monitors, expected) in [
            (
                vec![shrink(&["nope"])],
                vec![INJECTED],
                "Unknown trigger resource nope",
            ),
            (vec![], vec![INJECTED; 2], "Duplicate resource monitor"),
            (
                vec![shrink(&[INJECTED; 2])],
                vec![INJECTED],
                "Duplicate trigger resource",
            ),
            (
                vec![shrink(&[INJECTED]), shrink(&[INJECTED])],
                vec![INJECTED],
                "Duplicate overload action",
            ),
            (
                vec![action(
                    "envoy.overload_actions.reset_high_memory_stream",
                    vec![],
                )],
                vec![INJECTED],
                "actions[0].name: the overload action \
                 \"envoy.overload_actions.reset_high_memory_stream\" is not supported",
            ),
            (
                vec![action(REDUCE_TIMEOUTS, vec![trigger(INJECTED)])],
                vec![INJECTED],
                "actions[0].typed_config: is required",
            ),
        ] {
            let said = said(actions, &monitors);
            assert!(said.contains(expected), "{said} instead of {expected}");
        }
    }
}
