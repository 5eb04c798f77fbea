//! "Did you mean": the nearest of the names that are allowed.

/// How many allowed names a message lists before it stops.
const LISTED: usize = 12;

/// What to say after an unknown name: the nearest allowed one, or what there is.
pub fn among(found: &str, allowed: impl Iterator<Item = String>) -> String {
    let allowed: Vec<_> = allowed.collect();
    match nearest(found, &allowed) {
        Some(name) => format!(", did you mean {name}?"),
        None if allowed.is_empty() => ", which has none".to_owned(),
        None => format!("; allowed: {}", list(allowed.into_iter())),
    }
}

/// What to say after an unknown name where listing all would be too much.
pub fn near(found: &str, allowed: impl Iterator<Item = String>) -> String {
    match nearest(found, &allowed.collect::<Vec<_>>()) {
        Some(name) => format!(", did you mean {name}?"),
        None => String::new(),
    }
}

/// What to say after an unknown message type: one of nearly the same short name,
/// since types of one package have most of the long one in common.
pub fn near_type(found: &str, allowed: impl Iterator<Item = String>) -> String {
    /// A slip, not another word.
    const ALIKE: f64 = 0.8;
    fn short(name: &str) -> &str {
        name.rsplit('.').next().unwrap_or(name)
    }
    let likeness = strsim::normalized_damerau_levenshtein;
    let best = allowed
        .map(|name| {
            let short = likeness(short(found), short(&name));
            (short, likeness(found, &name), name)
        })
        .filter(|(short, _, _)| *short >= ALIKE)
        .max_by(|(a, x, _), (b, y, _)| a.total_cmp(b).then(x.total_cmp(y)));
    match best {
        Some((_, _, name)) => format!(", did you mean {name}?"),
        None => String::new(),
    }
}

/// The names, separated by commas, cut when there are many.
pub fn list(names: impl Iterator<Item = String>) -> String {
    let names: Vec<_> = names.collect();
    let shown = names[..names.len().min(LISTED)].join(", ");
    match names.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The allowed name that is most like the one found, if any is like it.
pub fn nearest<'a>(found: &str, allowed: &'a [String]) -> Option<&'a str> {
    /// Below this a resemblance is chance.
    const ALIKE: f64 = 0.7;
    let plain = |name: &str| name.replace(['_', '-', ' '], "").to_lowercase();
    let found = plain(found);
    allowed
        .iter()
        .map(|name| {
            let likeness = strsim::normalized_damerau_levenshtein(&found, &plain(name));
            (likeness, name)
        })
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> impl Iterator<Item = String> {
        ["stat_prefix", "route_config", "http_filters"]
            .map(str::to_owned)
            .into_iter()
    }

    #[test]
    fn a_type_is_compared_by_its_own_name() {
        let types = || ["a.router.v3.Router", "a.v3.TcpProxy", "b.v3.TcpProxy"].map(str::to_owned);
        let near = |found| near_type(found, types().into_iter());
        assert_eq!(near("a.lua.v3.Lua"), "");
        assert_eq!(
            near("a.router.v2.Ruoter"),
            ", did you mean a.router.v3.Router?"
        );
        assert_eq!(near("b.v2.TcpProxy"), ", did you mean b.v3.TcpProxy?");
    }

    #[test]
    fn a_slip_is_corrected_and_nonsense_is_answered_with_what_there_is() {
        assert_eq!(among("stat-prefx", fields()), ", did you mean stat_prefix?");
        assert_eq!(
            among("httpfilter", fields()),
            ", did you mean http_filters?"
        );
        assert_eq!(
            among("x", fields()),
            "; allowed: stat_prefix, route_config, http_filters"
        );
    }
}
