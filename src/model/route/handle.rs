//! A chosen route, held for the life of a request.

use std::{fmt, rc::Rc, sync::Arc};

use super::{
    entry::{Action, Route},
    mirror::Mirror,
    per_filter::PerFilter,
    table::{RouteIndex, RouteTable},
    virtual_host::VirtualHost,
};

/// A table as one worker holds it: the outer count belongs to that worker, so
/// that counting touches nothing that another worker touches.
pub type WorkerTable = Rc<Arc<RouteTable>>;

/// A route together with its table.
///
/// A worker keeps one `Rc` to the table of the moment, so that holding a route
/// touches no counter that another worker touches.
#[derive(Clone)]
pub struct RouteHandle {
    table: WorkerTable,
    index: RouteIndex,
}

impl RouteHandle {
    /// A route that this table's [`find`](RouteTable::find) gave.
    pub fn new(table: WorkerTable, index: RouteIndex) -> Self {
        Self { table, index }
    }

    /// The route.
    pub fn route(&self) -> &Route {
        self.table.route(self.index)
    }

    /// Its virtual host.
    pub fn virtual_host(&self) -> &VirtualHost {
        self.table.virtual_host(self.index.virtual_host)
    }

    /// Who gets a copy of its requests: what the route says, else its virtual host,
    /// else its table.
    pub fn mirrors(&self) -> &[Mirror] {
        let route = match &self.route().action {
            Action::Forward(forward) => &forward.mirrors[..],
            _ => &[],
        };
        let levels = [route, &self.virtual_host().mirrors, &self.table.mirrors];
        let mut levels = levels.into_iter();
        levels.find(|level| !level.is_empty()).unwrap_or_default()
    }

    /// All that is said to a filter of this name by the route, its virtual host and
    /// its table, in this order; what is of another type than the filter's is left out.
    pub fn filter_configs<T: std::any::Any>(&self, filter: &str) -> impl Iterator<Item = &T> {
        let levels = self.per_filter().into_iter();
        levels.filter_map(move |level| level.config(filter))
    }

    /// Whether a filter of this name is turned off or on.
    pub fn filter_disabled(&self, filter: &str) -> Option<bool> {
        let mut levels = self.per_filter().into_iter();
        levels.find_map(|level| level.disabled(filter))
    }

    fn per_filter(&self) -> [&PerFilter; 3] {
        [
            &self.route().per_filter,
            &self.virtual_host().per_filter,
            &self.table.per_filter,
        ]
    }

    /// Its table.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }
}

impl fmt::Debug for RouteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.virtual_host().name(), self.route().name())
    }
}
