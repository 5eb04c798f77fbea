//! Requests of a type that are held back.

/// Whether requests of a type are held, and whether there are any.
#[derive(Debug, Default)]
pub struct Hold {
    on: bool,
    caught: bool,
}

impl Hold {
    /// Begins or ends; true when there is something to say that was held until now.
    pub fn set(&mut self, on: bool) -> bool {
        self.on = on;
        !on && std::mem::take(&mut self.caught)
    }

    /// Whether what there is to say has to wait; notes that there is something.
    pub fn catches(&mut self) -> bool {
        self.caught |= self.on;
        self.on
    }

    /// A new stream: what was held concerned the old one.
    pub fn again(&mut self) {
        self.caught = false;
    }
}
