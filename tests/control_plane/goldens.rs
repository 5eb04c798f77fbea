//! What a production control plane pushes, and what Envoy says to it.
//!
//! `NUNCIO_GOLDENS` names a folder of scenarios, each of them one file for each
//! type of resource (`NAME.clusters.yaml` and so on). Beside the folder,
//! `FOLDER-envoy-1.40.json` has Envoy's verdict for each scenario and type: `ack`,
//! or `nack` and why. The corpus is not part of this repository; without it there
//! is nothing to do here.
//!
//! A scenario agrees when every verdict is Envoy's. One that does not may only
//! differ by a refusal that names what is not supported yet: a field by its path,
//! or an extension by its type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::common::{DEADLINE, Home, Port, Program, Value, json};
use crate::scene::{SOTW_ADS, is_another};
use crate::server::encode::name_of;
use crate::server::{Asked, CLUSTER, ControlPlane, ENDPOINTS, LISTENER, ROUTES, SECRET};

/// How files are named, and of what type their resources are.
const KINDS: [(&str, &str); 5] = [
    ("clusters", CLUSTER),
    ("endpoints", ENDPOINTS),
    ("listeners", LISTENER),
    ("routes", ROUTES),
    ("secrets", SECRET),
];

/// How many proxies run at once.
const AT_ONCE: usize = 4;

/// How long nothing new may be asked before it is believed that nothing is still
/// to come, when something that was refused would have led to it.
const QUIET: Duration = Duration::from_millis(500);

/// Verdicts by kind; an empty string is an acknowledgement.
type Verdicts = BTreeMap<String, String>;

struct Scenario {
    name: String,
    /// Resources by kind.
    resources: BTreeMap<&'static str, Vec<Value>>,
    envoy: Verdicts,
}

#[tokio::test]
async fn what_envoy_says_to_it_is_said_here_too() {
    let Some(folder) = std::env::var_os("NUNCIO_GOLDENS").map(PathBuf::from) else {
        eprintln!("skipped: NUNCIO_GOLDENS names no folder of scenarios");
        return;
    };
    if is_another() {
        return;
    }
    let scenarios = read(&folder);
    let total = scenarios.len();
    let outcomes = futures_util::stream::iter(scenarios)
        .map(|scenario| async move { (push(&scenario).await, scenario) })
        .buffer_unordered(AT_ONCE);
    let mut outcomes: Vec<_> = outcomes.collect().await;
    outcomes.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
    let (mut agree, mut wrong) = (0, Vec::new());
    let mut missing = BTreeMap::<String, BTreeSet<&str>>::new();
    for (said, scenario) in &outcomes {
        let differences = differences(said, scenario);
        let refusals = said.values().flat_map(|details| details.lines());
        let (named, other): (Vec<_>, Vec<_>) =
            refusals.partition(|line| is_unsupported(line, scenario));
        if differences.is_empty() {
            agree += 1;
            continue;
        }
        for line in &named {
            let what = what_is_missing(line);
            missing.entry(what).or_default().insert(&scenario.name);
        }
        let excused = differences.iter().all(|kind| match said.get(kind) {
            // What is asked for depends on what was refused.
            None => !named.is_empty(),
            Some(details) => details.lines().any(|line| is_unsupported(line, scenario)),
        });
        if !excused {
            wrong.push(format!(
                "{}: differs in {differences:?}: {other:#?}, {named:#?}, Envoy says {:?}",
                scenario.name, scenario.envoy
            ));
        }
    }
    let mut missing: Vec<_> = missing.into_iter().collect();
    missing.sort_by_key(|(_, scenarios)| std::cmp::Reverse(scenarios.len()));
    for (what, scenarios) in &missing {
        let first: Vec<_> = scenarios.iter().take(3).collect();
        println!("{:3} scenarios lack {what}: {first:?}", scenarios.len());
    }
    println!("goldens: {agree} of {total} scenarios have Envoy's verdicts");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let readme = include_str!("../../README.md");
    let promised = readme.lines().find_map(|line| {
        let (_, count) = line.split_once("<!-- goldens -->")?;
        count.split_whitespace().next()?.parse::<usize>().ok()
    });
    let promised = promised.expect("a count in the README");
    assert!(agree >= promised, "the README says {promised} of {total}");
    if agree > promised {
        println!("the README may say {agree}, it says {promised}");
    }
}

fn read(folder: &Path) -> Vec<Scenario> {
    let mut beside = folder.as_os_str().to_owned();
    beside.push("-envoy-1.40.json");
    let text = std::fs::read_to_string(&beside).expect("Envoy's verdicts");
    let verdicts: BTreeMap<String, Verdicts> = serde_json::from_str(&text).expect("JSON");
    let scenarios = verdicts.into_iter().map(|(name, envoy)| {
        let mut resources = BTreeMap::new();
        for (kind, _) in KINDS {
            let path = folder.join(format!("{name}.{kind}.yaml"));
            let Ok(text) = std::fs::read_to_string(path) else {
                continue;
            };
            let parsed: Option<Vec<Value>> = serde_yaml::from_str(&text).expect("YAML");
            resources.insert(kind, parsed.unwrap_or_default());
        }
        let envoy = envoy.into_iter().map(|(kind, verdict)| {
            let details = verdict.strip_prefix("nack: ").map(str::to_owned);
            (kind, details.unwrap_or_default())
        });
        Scenario {
            name,
            resources,
            envoy: envoy.collect(),
        }
    });
    scenarios.collect()
}

/// Pushes a scenario to a proxy of its own, and returns what it says.
async fn push(scenario: &Scenario) -> Verdicts {
    let (home, plane) = (Home::new(), ControlPlane::start().await);
    let mut ports = BTreeMap::new();
    for (kind, type_url) in KINDS {
        let Some(resources) = scenario.resources.get(kind) else {
            continue;
        };
        let mut resources = resources.clone();
        if kind == "listeners" {
            resources.iter_mut().for_each(|l| narrow(l, &mut ports));
        }
        plane.set(type_url, resources);
    }
    let bootstrap = SOTW_ADS.bootstrap(plane.port());
    let mut proxy = Program::under_test().launch(&home, &bootstrap, &[]);
    let (mut seen, mut since) = (0, Instant::now());
    let began = Instant::now();
    loop {
        assert!(
            proxy.ended().is_none(),
            "{}: it ended\n{}",
            scenario.name,
            proxy.log()
        );
        let asked = plane.asked();
        if asked.len() != seen {
            (seen, since) = (asked.len(), Instant::now());
        }
        let said = verdicts(&asked);
        let is_over = said.contains_key("listeners") && since.elapsed() >= QUIET;
        if is_over || is_complete(scenario, &asked, &said) {
            return said;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{}: no verdict\n{said:#?}\n{}",
            scenario.name,
            proxy.log()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether every resource was asked for, and all of them were acknowledged.
fn is_complete(scenario: &Scenario, asked: &[Asked], said: &Verdicts) -> bool {
    KINDS.iter().all(|(kind, type_url)| {
        let Some(resources) = scenario.resources.get(kind).filter(|r| !r.is_empty()) else {
            return true;
        };
        let last = asked.iter().rfind(|asked| asked.type_url == *type_url);
        let is_asked = |name| last.is_some_and(|asked| asked.names.iter().any(|n| n == name));
        let by_name = !matches!(*kind, "clusters" | "listeners");
        last.is_some_and(Asked::is_ack)
            && said.get(*kind).is_some_and(String::is_empty)
            && (!by_name || resources.iter().map(name_of).all(is_asked))
    })
}

fn verdicts(asked: &[Asked]) -> Verdicts {
    let mut said = Verdicts::new();
    for (kind, type_url) in KINDS {
        let of_type = asked.iter().filter(|asked| asked.type_url == type_url);
        for asked in of_type.filter(|asked| !asked.nonce.is_empty()) {
            let details = said.entry(kind.to_owned()).or_default();
            if let Some(error) = &asked.error {
                details.clone_from(error);
            }
        }
    }
    said
}

/// Puts every address of a listener on loopback, and every port on a free one.
fn narrow(listener: &mut Value, ports: &mut BTreeMap<u64, Port>) {
    let mut put = |holder: &mut Value| {
        let Some(socket) = holder.pointer_mut("/address/socketAddress") else {
            return;
        };
        let port = socket["portValue"].as_u64().unwrap_or_default();
        socket["address"] = json!("127.0.0.1");
        socket["portValue"] = json!(ports.entry(port).or_insert_with(Port::free).number());
    };
    put(listener);
    let additional = listener.get_mut("additionalAddresses");
    let additional = additional.and_then(Value::as_array_mut);
    additional.into_iter().flatten().for_each(put);
}

/// Kinds in which a verdict is not Envoy's.
fn differences(said: &Verdicts, scenario: &Scenario) -> Vec<String> {
    let kinds = scenario.envoy.iter().filter(|(kind, envoy)| {
        let good = said.get(*kind).map(String::is_empty);
        good != Some(envoy.is_empty())
    });
    kinds.map(|(kind, _)| kind.clone()).collect()
}

/// Whether a refusal says that something is not supported yet, and names it: an
/// extension by the type that was pushed, or a field that was.
fn is_unsupported(line: &str, scenario: &Scenario) -> bool {
    let (path, message) = path_and_message(line);
    let all = scenario.resources.values().flatten();
    let mut all = all.map(Value::to_string);
    if message.starts_with("is not supported") {
        let field = camel_case(path.rsplit('.').next().unwrap_or_default());
        return all.any(|resource| resource.contains(&format!("\"{field}\":")));
    }
    let mut quoted = message.split('"').skip(1).step_by(2);
    let named = quoted.next().or_else(|| message.split(' ').next());
    let named = named.unwrap_or_default();
    let ends = format!("{named}\"");
    message.contains("not supported") && all.any(|resource| resource.contains(&ends))
}

/// What a refusal is about, for people.
fn what_is_missing(line: &str) -> String {
    let (path, message) = path_and_message(line);
    let message = message.split(", did you mean").next().unwrap_or_default();
    let message = message.split("; there are").next().unwrap_or_default();
    match message.starts_with("is not supported") {
        true => path,
        false => message.to_owned(),
    }
}

/// The path, without indexes, and what is said of it.
fn path_and_message(line: &str) -> (String, &str) {
    let (before, message) = line.rsplit_once(": ").unwrap_or(("", line));
    let path = before.rsplit(": ").next().unwrap_or_default();
    let mut plain = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ if !inside => plain.push(c),
            _ => {}
        }
    }
    (plain, message)
}

fn camel_case(field: &str) -> String {
    let mut words = field.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at_checked(1).unwrap_or((word, ""));
        name.push_str(&first.to_uppercase());
        name.push_str(rest);
    }
    name
}
