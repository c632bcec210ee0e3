//! What is said to be in effect is what is.

use std::path::Path;

use super::*;
use crate::config::effective::Setting;
use crate::config::source::KEYS;

const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "key")];

fn explain(text: &str, environment: &[(&str, &str)], node: Option<&str>) -> Vec<Setting> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut settings = Config::explain(Some(file.path()), environment, node).unwrap();
    let name = file.path().display().to_string();
    for setting in &mut settings {
        setting.source = setting.source.replace(&name, "FILE");
    }
    settings
}

fn of<'a>(settings: &'a [Setting], key: &str) -> (Option<&'a str>, &'a str) {
    let setting = settings.iter().find(|setting| setting.key == key).unwrap();
    (setting.value.as_deref(), &setting.source)
}

#[test]
fn defaults_that_are_written_out_change_nothing() {
    for (text, begins) in [("", "archive."), ("archive.bucket = \"bucket\"\n", "nothing")] {
        let said = |(key, default): &&(&str, &str)| {
            !default.is_empty() && !key.starts_with("cluster.") && !key.starts_with(begins)
        };
        let line = |(key, default): &(&str, &str)| format!("{key} = {default}\n");
        let all: String = KEYS.iter().filter(said).map(line).collect();
        let bare = load(text, &CREDENTIALS).unwrap();
        let full = load(&format!("{text}{all}"), &CREDENTIALS).unwrap();
        assert_eq!(format!("{bare:?}"), format!("{full:?}"));
    }
}

#[test]
fn every_value_has_its_source() {
    let settings = explain(
        "[storage]\ncache = \"1GiB\"\nio = \"buffered\"\n[sync]\nrate = \"1MiB\"",
        &[("AMBERBLOB_STORAGE__CACHE", "2GiB"), ("AMBERBLOB_REGISTRY__PASSWORD", "secret"), ("OTHER", "x")],
        None,
    );
    assert_eq!(of(&settings, "storage.cache"), (Some("\"2GiB\""), "AMBERBLOB_STORAGE__CACHE"));
    assert_eq!(of(&settings, "storage.io"), (Some("\"buffered\""), "FILE"));
    assert_eq!(of(&settings, "sync.interval"), (Some("\"1m\""), "default"));
    assert_eq!(of(&settings, "archive.bucket"), (None, "not set"));
    assert_eq!(of(&settings, "registry.password"), (None, "AMBERBLOB_REGISTRY__PASSWORD: not shown"));
    assert!(settings.iter().all(|setting| !setting.to_string().contains("secret")));
}

#[test]
fn a_node_of_a_cluster_has_what_its_entry_says() {
    let settings = explain(THREE, &[], Some("b"));
    assert_eq!(of(&settings, "current_node"), (Some("\"b\""), "--node"));
    assert_eq!(
        of(&settings, "listen.admin"),
        (Some("\"127.0.0.1:2002\""), "the entry of 'b' in cluster.nodes")
    );
    assert_eq!(of(&settings, "cluster.write_quorum"), (Some("2"), "follows from the others"));
    assert!(of(&settings, "cluster.nodes").0.unwrap().contains("127.0.0.1:3001"));
}

#[test]
fn what_is_printed_is_a_config_that_says_the_same() {
    let settings = explain(THREE, &[], Some("c"));
    let printed = settings.iter().map(ToString::to_string).collect::<Vec<_>>().join(
        "
",
    );
    let again = load(&printed, &[]).unwrap();
    assert_eq!(format!("{:?}", as_node(THREE, "c").unwrap()), format!("{again:?}"));
    assert!(Config::explain(Some(Path::new("/nowhere")), std::iter::empty(), None).is_err());
}
