//! The names of a kind of component's stats.

/// Index of a counter in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter(pub u16);
/// Index of a gauge in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(pub u16);
/// Index of a histogram in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram(pub u16);
/// Index of a text readout in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text(pub u16);

/// What a histogram counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No unit.
    Unspecified,
    /// Bytes.
    Bytes,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Millionths of one; shown as a fraction of one, as Envoy does.
    Percent,
}

impl Unit {
    /// What a recorded value is multiplied by when it is shown.
    pub fn scale(self) -> f64 {
        match self {
            Self::Percent => 1e-6,
            Self::Unspecified | Self::Bytes | Self::Microseconds | Self::Milliseconds => 1.0,
        }
    }
}

/// The names of a kind of component's stats, made by [`stat_table!`](crate::stat_table).
#[derive(Debug)]
pub struct Table {
    /// Counter names, by index.
    pub counters: &'static [&'static str],
    /// Gauge names, by index.
    pub gauges: &'static [&'static str],
    /// Histogram names and units, by index.
    pub histograms: &'static [(&'static str, Unit)],
    /// Text readout names, by index.
    pub texts: &'static [&'static str],
    /// What responses are counted under, see [`Block::count_code`](super::Block::count_code):
    /// the names whose total is listed before the first response.
    pub codes: &'static [&'static str],
    /// Names that are listed once they have been written, as Envoy makes such stats
    /// when they are first used; with a dot at its end, all that begin so.
    pub late: &'static [&'static str],
}

impl Table {
    /// Whether a stat of this name is listed.
    pub fn lists(&self, name: &str, used: bool) -> bool {
        used || !self.late.iter().any(|late| match late.ends_with('.') {
            true => name.starts_with(late),
            false => name == *late,
        })
    }
}

/// Declares a module with one constant for each stat, named as Envoy names it,
/// and the `TABLE` of their names. A dotted name is given after `=`. `codes` and
/// `late`, which may be left out, are those of [`Table`](crate::stats::Table).
///
/// Constants are lower case on purpose: the name in the code is the name a
/// person greps for.
#[macro_export]
macro_rules! stat_table {
    (@name $stat:ident) => { stringify!($stat) };
    (@name $stat:ident $name:literal) => { $name };
    ($(#[$doc:meta])* $vis:vis mod $module:ident {
        counters { $($c:ident $(= $cn:literal)?),* $(,)? }
        gauges { $($g:ident $(= $gn:literal)?),* $(,)? }
        histograms { $($h:ident $(= $hn:literal)? : $unit:ident),* $(,)? }
        texts { $($t:ident $(= $tn:literal)?),* $(,)? }
        $(codes { $($code:literal),* $(,)? })?
        $(late { $($late:literal),* $(,)? })?
    }) => {
        $(#[$doc])*
        #[allow(non_upper_case_globals, non_camel_case_types, missing_docs, dead_code)]
        $vis mod $module {
            use $crate::stats::table::*;
            enum C { $($c),* }
            enum G { $($g),* }
            enum H { $($h),* }
            enum T { $($t),* }
            $(pub const $c: Counter = Counter(C::$c as u16);)*
            $(pub const $g: Gauge = Gauge(G::$g as u16);)*
            $(pub const $h: Histogram = Histogram(H::$h as u16);)*
            $(pub const $t: Text = Text(T::$t as u16);)*
            pub static TABLE: Table = Table {
                counters: &[$($crate::stat_table!(@name $c $($cn)?)),*],
                gauges: &[$($crate::stat_table!(@name $g $($gn)?)),*],
                histograms: &[$(($crate::stat_table!(@name $h $($hn)?), Unit::$unit)),*],
                texts: &[$($crate::stat_table!(@name $t $($tn)?)),*],
                codes: &[$($($code),*)?],
                late: &[$($($late),*)?],
            };
        }
    };
}
