use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;

/// Long enough for an event that should not come to have come.
const QUIET: Duration = Duration::from_millis(120);

struct Scene {
    root: TempDir,
    watcher: Rc<Watcher>,
}

impl Scene {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let watcher = Watcher::new().unwrap();
        Self { root, watcher }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes elsewhere in the same directory, then moves.
    fn put(&self, name: &str, text: &str) {
        let target = self.path(name);
        let temporary = target.with_extension("tmp");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, target).unwrap();
    }

    fn watch(&self, name: &str) -> Watch {
        self.watcher.watch(&self.path(name), None).unwrap()
    }

    /// All that is told until nothing has come for a while.
    async fn told(&self) -> Vec<Change> {
        let mut told = Vec::new();
        while tokio::time::timeout(QUIET, self.watcher.ready())
            .await
            .is_ok()
        {
            told.extend(self.watcher.changes().into_iter().map(|(_, change)| change));
        }
        told
    }
}

#[tokio::test]
async fn a_move_onto_the_name_counts_once_and_at_once() {
    let scene = Scene::new();
    scene.write("lds.yaml", "1");
    let _watch = scene.watch("lds.yaml");
    scene.put("lds.yaml", "2");
    let start = Instant::now();
    scene.watcher.ready().await;
    let changes = scene.watcher.changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(changes[0].1, Change::Replaced);
    assert!(start.elapsed() < Duration::from_millis(100));
    assert_eq!(scene.told().await, []);
}

#[tokio::test]
async fn writing_in_place_is_told_once_and_not_as_a_change() {
    let scene = Scene::new();
    scene.write("lds.yaml", "1");
    let _watch = scene.watch("lds.yaml");
    scene.write("lds.yaml", "2");
    scene.write("lds.yaml", "3");
    assert_eq!(scene.told().await, [Change::EditedInPlace]);
    scene.write("lds.yaml", "4");
    assert_eq!(scene.told().await, []);
    scene.put("lds.yaml", "5");
    assert_eq!(scene.told().await, [Change::Replaced]);
    scene.write("lds.yaml", "6");
    assert_eq!(scene.told().await, [Change::EditedInPlace]);
}

#[tokio::test]
async fn touch_remove_and_copy_are_not_changes() {
    let scene = Scene::new();
    scene.write("lds.yaml", "1");
    let _watch = scene.watch("lds.yaml");
    let file = fs::File::options()
        .append(true)
        .open(scene.path("lds.yaml"))
        .unwrap();
    let now = std::time::SystemTime::now();
    file.set_times(fs::FileTimes::new().set_accessed(now).set_modified(now))
        .unwrap();
    drop(file);
    assert_eq!(scene.told().await, []);
    fs::remove_file(scene.path("lds.yaml")).unwrap();
    assert_eq!(scene.told().await, []);
    scene.write("lds.yaml", "2");
    assert_eq!(scene.told().await, [Change::EditedInPlace]);
}

#[tokio::test]
async fn a_missing_file_arrives() {
    let scene = Scene::new();
    let _watch = scene.watch("a/b/rds.yaml");
    fs::create_dir_all(scene.path("a/b")).unwrap();
    assert_eq!(scene.told().await, []);
    scene.put("a/b/rds.yaml", "1");
    assert_eq!(scene.told().await, [Change::Replaced]);
}

#[tokio::test]
async fn a_config_map_swap_counts() {
    let scene = Scene::new();
    for version in ["..1", "..2"] {
        fs::create_dir(scene.path(version)).unwrap();
        scene.write(&format!("{version}/lds.yaml"), version);
    }
    symlink("..1", scene.path("..data")).unwrap();
    symlink("..data/lds.yaml", scene.path("lds.yaml")).unwrap();
    let _watch = scene.watch("lds.yaml");
    symlink("..2", scene.path("..data_tmp")).unwrap();
    fs::rename(scene.path("..data_tmp"), scene.path("..data")).unwrap();
    assert_eq!(scene.told().await, [Change::Replaced]);
    fs::remove_dir_all(scene.path("..1")).unwrap();
    assert_eq!(scene.told().await, []);
    // The new directory is the one that is watched now.
    scene.put("..2/lds.yaml", "3");
    assert_eq!(scene.told().await, [Change::Replaced]);
}

#[tokio::test]
async fn a_link_that_is_made_anew_counts() {
    let scene = Scene::new();
    for version in ["v1", "v2"] {
        fs::create_dir(scene.path(version)).unwrap();
        scene.write(&format!("{version}/lds.yaml"), version);
    }
    tokio::time::sleep(SETTLE).await;
    symlink("v1", scene.path("current")).unwrap();
    let _watch = scene.watch("current/lds.yaml");
    fs::remove_file(scene.path("current")).unwrap();
    symlink("v2", scene.path("current")).unwrap();
    assert_eq!(scene.told().await, [Change::Replaced]);
}

#[tokio::test]
async fn a_directory_made_again_is_watched_again() {
    let scene = Scene::new();
    fs::create_dir(scene.path("conf")).unwrap();
    scene.write("conf/lds.yaml", "1");
    let _watch = scene.watch("conf/lds.yaml");
    for round in 0..3 {
        fs::remove_dir_all(scene.path("conf")).unwrap();
        assert_eq!(scene.told().await, [], "round {round}");
        fs::create_dir(scene.path("conf")).unwrap();
        assert_eq!(scene.told().await, [], "round {round}");
        scene.put("conf/lds.yaml", "2");
        assert_eq!(scene.told().await, [Change::Replaced], "round {round}");
    }
    // Without a pause: whether the move was seen or not, the file is read.
    for round in 0..20 {
        fs::remove_dir_all(scene.path("conf")).unwrap();
        fs::create_dir(scene.path("conf")).unwrap();
        scene.put("conf/lds.yaml", "3");
        let told = scene.told().await;
        assert!(told.contains(&Change::Replaced), "round {round}: {told:?}");
    }
}

#[tokio::test]
async fn a_directory_moved_away_and_back_counts() {
    let scene = Scene::new();
    fs::create_dir(scene.path("conf")).unwrap();
    scene.write("conf/lds.yaml", "1");
    let _watch = scene.watch("conf/lds.yaml");
    fs::rename(scene.path("conf"), scene.path("old")).unwrap();
    fs::rename(scene.path("old"), scene.path("conf")).unwrap();
    assert_eq!(scene.told().await, [Change::Replaced]);
    scene.put("conf/lds.yaml", "2");
    assert_eq!(scene.told().await, [Change::Replaced]);
}

#[tokio::test]
async fn a_watched_directory_says_when_to_read() {
    let scene = Scene::new();
    fs::create_dir(scene.path("trigger")).unwrap();
    fs::create_dir(scene.path("conf")).unwrap();
    scene.write("conf/lds.yaml", "1");
    let _watch = scene
        .watcher
        .watch(&scene.path("conf/lds.yaml"), Some(&scene.path("trigger")))
        .unwrap();
    scene.put("conf/lds.yaml", "2");
    assert_eq!(scene.told().await, []);
    scene.put("trigger/anything", "");
    assert_eq!(scene.told().await, [Change::Replaced]);
    scene.write("trigger/written", "");
    assert_eq!(scene.told().await, []);
}

#[tokio::test]
async fn a_log_in_the_directory_wakes_nobody() {
    let scene = Scene::new();
    scene.write("lds.yaml", "1");
    let _watch = scene.watch("lds.yaml");
    let mut log = fs::File::create(scene.path("nuncio.log")).unwrap();
    for _ in 0..100 {
        writeln!(log, "a line").unwrap();
    }
    let woken = tokio::time::timeout(QUIET, scene.watcher.ready()).await;
    assert!(woken.is_err());
}

#[tokio::test]
async fn what_nobody_holds_is_forgotten() {
    let scene = Scene::new();
    scene.write("lds.yaml", "1");
    let first = scene.watch("lds.yaml");
    let second = scene.watch("lds.yaml");
    drop(first);
    scene.put("lds.yaml", "2");
    assert_eq!(scene.told().await, [Change::Replaced]);
    drop(second);
    assert!(scene.watcher.state.borrow().folders.is_empty());
    assert!(scene.watcher.state.borrow().watches.is_empty());
}
