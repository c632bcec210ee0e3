//! Configs that are good, and what is said about those that are not.

mod archive;
mod effective;

use super::*;
use crate::registry::record::Addresses;

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(file.path()), environment, None)
}

/// Three nodes, one file.
const THREE: &str = r#"
[cluster]
name = "edge001"
[[cluster.nodes]]
name = "a"
public = "127.0.0.1:1000"
peer = "127.0.0.1:1001"
disks = ["/a/1", "/a/2"]
[[cluster.nodes]]
name = "b"
public = "127.0.0.1:2000"
peer = "127.0.0.1:2001"
admin = "127.0.0.1:2002"
disks = ["/b"]
[[cluster.nodes]]
name = "c"
public = "127.0.0.1:3000"
peer = "127.0.0.1:3001"
"#;

fn as_node(text: &str, node: &str) -> Result<Config, String> {
    load(text, &[("AMBERBLOB_CURRENT_NODE", node)])
}

#[test]
fn every_key_has_a_default_and_can_be_overridden() {
    let config = load("", &[]).unwrap();
    assert_eq!(config.listen.public.to_string(), "127.0.0.1:8080");
    assert_eq!(config.storage.cache, CacheSize::Percent(25));
    assert_eq!(config.network.send, Mode::Auto);
    assert_eq!((config.scrub.interval, config.scrub.rate), (Duration::from_hours(720), 100 << 20));
    assert_eq!((config.sync.interval, config.sync.rate), (Duration::from_mins(1), 0));
    let config = load(
        "[sync]
interval = \"5s\"
rate = \"100MiB\"
[scrub]
rate = \"1GiB\"
quarantine = \"0s\"
[storage]
tombstone_grace = \"2d\"
cache = \"2GiB\"
io = \"buffered\"",
        &[
            ("AMBERBLOB_STORAGE__CACHE", "64MiB"),
            ("AMBERBLOB_STORAGE__KEEP_VERSIONS", "3"),
            ("AMBERBLOB_NETWORK__SEND", "zerocopy"),
            ("AMBERBLOB_SYNC__INTERVAL", "5m"),
            ("AMBERBLOB_SERVER", "x"),
        ],
    )
    .unwrap();
    assert_eq!(config.storage.cache, CacheSize::Bytes(64 << 20));
    assert_eq!(config.storage.keep_versions, 3);
    assert_eq!((config.sync.interval, config.sync.rate), (Duration::from_mins(5), 100 << 20));
    assert_eq!(config.network.send, Mode::ZeroCopy);
    assert_eq!(config.storage.tombstone_grace, Duration::from_hours(48));
    assert_eq!(config.storage.io, Io::Buffered);
    assert_eq!((config.scrub.rate, config.scrub.quarantine), (1 << 30, Duration::ZERO));
}

#[test]
fn mistakes_are_named() {
    for (text, part) in [
        ("[storage]\ncashe = \"1GiB\"", "did you mean 'storage.cache'"),
        ("[storag]\ncache = \"1GiB\"", "did you mean 'storage"),
        ("[storage]\ncache = \"lots\"", "'lots' is no size"),
        ("[storage]\ndurability = \"none\"", "it can be \"full\""),
        ("[network]\nsend = \"fast\"", "it can be \"auto\""),
        ("[network]\nsent = \"copy\"", "did you mean 'network.send'"),
        ("[storage]\nsend = \"copy\"", "there is no key 'storage.send'"),
        ("[storage]\ntombstone_grace = \"soon\"", "'soon' is no duration"),
        ("[storage]\ndisks = []", "name at least one"),
        ("[scrub]\nrate = \"25%\"", "'25%' is no rate"),
        ("[scrub]\nrate = \"1KiB\"", "at least 64KiB"),
        ("[scrub]\ninterval = \"0s\"", "the time for one pass and"),
        ("[registry]\nbackend = \"zookeeper\"", "it can be \"embedded\", \"redis\" or \"etcd\""),
        ("[registry]\nbackend = \"redis\"\nendpoints = []", "registry.endpoints is empty"),
        ("[registry]\nbackend = \"etcd\"\nendpoints = [\"10.0.0.1\"]", "like \"http://"),
        ("[registry]\nlease = \"1ms\"", "registry.lease can be from"),
        ("[registry]\npassword = \"geheim\"", "does not belong here"),
        ("[registry]\npassword_file = \"/no/such\"", "cannot read /no/such"),
        ("[registry]\nbackend = \"etcd\"\nusername = \"u\"", "or neither"),
        ("[registry]\nendpoint = []", "did you mean 'registry.endpoints'"),
        ("[cluster]\nreplicas = 3", "there are 1 nodes"),
        ("[cluster.tls]\nkey = \"k\"", "name all three"),
        ("[cluster.tls]\nca = \"k\"", "there is no key 'cluster.tls.ca'"),
        ("[[cluster.nodes]]\npublic = \"127.0.0.1:1\"", "node 1 has no name"),
        ("[[cluster.nodes]]\nname = \"a/b\"", "a name has 1 to 64"),
        ("current_node = 1", "in quotes"),
        ("[sync]\nintervall = \"1m\"", "did you mean 'sync.interval'"),
        ("[sync]\ninterval = \"1ms\"", "at most every 100ms"),
        ("[sync]\nrate = \"25%\"", "'25%' is no size: write it like \"100MiB\", or \"0\""),
        ("[archive]\nbuckets = \"b\"", "did you mean 'archive.bucket'"),
        ("[[cluster.nodes]]\nnam = \"a\"", "did you mean 'cluster.nodes.name'"),
        ("listen = 3", "listen"),
        ("[listen]\npublic = \"here\"", "public"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn one_file_serves_all_nodes() {
    for (node, port, disks) in [("a", 1000, 2), ("b", 2000, 1), ("c", 3000, 1)] {
        let config = as_node(THREE, node).unwrap();
        let cluster = config.cluster.unwrap();
        assert_eq!(config.current_node, node);
        assert_eq!((config.listen.public.port(), config.listen.peer.port()), (port, port + 1));
        assert_eq!(config.storage.disks.len(), disks);
        assert_eq!(cluster.topology.name(cluster.topology.me()), node);
        assert_eq!((cluster.topology.replica_count(), cluster.topology.write_quorum()), (3, 2));
        assert_eq!(
            cluster.known.iter().map(|known| known.disks).collect::<Vec<_>>(),
            [Some(2), Some(1), None]
        );
        assert!(!cluster.redirect && !cluster.insecure && cluster.tls.is_none());
    }
    assert_eq!(as_node(THREE, "b").unwrap().listen.admin.port(), 2002);
    assert_eq!(as_node(THREE, "c").unwrap().listen.admin.port(), 8081, "as on a single node");
    assert_eq!(as_node(THREE, "c").unwrap().storage.disks, [PathBuf::from("./amberblob-data")]);
    let text = format!("[listen]\npublic = \"127.0.0.1:9\"\n[storage]\ndisks = [\"/x\"]\n{THREE}");
    let config = as_node(&text, "a").unwrap();
    assert_eq!(config.listen.public.port(), 9, "what is said for itself stands above the list");
    assert_eq!(config.listen.peer.port(), 1001);
    assert_eq!(config.storage.disks, [PathBuf::from("/x")]);
    let advertised = config.cluster.unwrap().advertised(Addresses::default()).unwrap();
    assert_eq!(advertised.public.unwrap().port(), 1000, "others go where the list says");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), THREE).unwrap();
    let environment = [("AMBERBLOB_CURRENT_NODE".to_owned(), "a".to_owned())].into_iter();
    let config = Config::load(Some(file.path()), environment, Some("b")).unwrap();
    assert_eq!(config.current_node, "b", "the command line has the last word");
}

#[test]
fn a_node_alone_is_no_cluster() {
    let text = "[cluster]\nname = \"edge001\"\n[[cluster.nodes]]\nname = \"only\"\npublic = \"127.0.0.1:5\"";
    let config = load(text, &[]).unwrap();
    assert!(config.cluster.is_none());
    assert_eq!((config.current_node.as_str(), config.listen.public.port()), ("only", 5));
    assert!(as_node(text, "other").unwrap_err().contains("not among cluster.nodes (only)"));
}

#[test]
fn a_registry_finds_addresses_and_keeps_its_password_to_itself() {
    let names = "[cluster]\nname = \"k\"\n[[cluster.nodes]]\nname = \"a\"\n[[cluster.nodes]]\nname = \"b\"";
    let text = format!("{names}\n[registry]\nbackend = \"redis\"\nlease = \"3s\"");
    let secret = [("AMBERBLOB_CURRENT_NODE", "a"), ("AMBERBLOB_REGISTRY__PASSWORD", "1234")];
    let config = load(&text, &secret).unwrap();
    assert_eq!(
        config.registry.password.as_ref().unwrap().reveal(),
        "1234",
        "text, though it looks like a number"
    );
    assert!(!format!("{config:?}").contains("1234"));
    assert_eq!(config.registry.endpoints[0].to_string(), "127.0.0.1:6379");
    assert_eq!(config.registry.lease, Duration::from_secs(3));
    let everywhere = Addresses { public: Some(([0, 0, 0, 0], 80).into()), ..Addresses::default() };
    let error = config.cluster.unwrap().advertised(everywhere).unwrap_err();
    assert!(error.contains("listen.public") && error.contains("public of 'a'"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "geheim\n").unwrap();
    let text = format!("{text}\npassword_file = {:?}", file.path());
    assert_eq!(as_node(&text, "b").unwrap().registry.password.unwrap().reveal(), "geheim");
    assert!(load(&text, &secret).unwrap_err().contains("both there"));
    let error = as_node(names, "a").unwrap_err();
    assert!(error.contains("'b' has no public address"), "{error}");
}

#[test]
fn what_would_break_a_promise_is_refused() {
    for (from, to, part) in [
        ("name = \"edge001\"", "", "cluster.name is missing"),
        ("name = \"edge001\"", "name = \"a b\"", "cluster.name is 'a b'"),
        ("name = \"edge001\"", "name = \"e\"\nwrite_quorum = 1", "cluster.unsafe_quorum = true"),
        ("name = \"edge001\"", "name = \"e\"\nreplicas = 4", "there are 3 nodes"),
        ("name = \"edge001\"", "name = \"e\"\nwrite_quorum = 4", "there are 3 replicas"),
        ("name = \"c\"", "name = \"a\"", "'a' twice"),
        ("127.0.0.1:3001", "127.0.0.1:2001", "are both 127.0.0.1:2001"),
        ("127.0.0.1:3001", "127.0.0.1:0", "where nobody can reach it"),
        ("127.0.0.1:3000", "0.0.0.0:3000", "where nobody can reach it"),
        ("127.0.0.1:3001", "10.0.0.3:3001", "cluster.insecure = true"),
        ("[cluster]", "[listen]\npeer = \"0.0.0.0:1001\"\n[cluster]", "listen.peer is 0.0.0.0:1001"),
    ] {
        assert!(THREE.contains(from));
        let error = as_node(&THREE.replacen(from, to, 1), "a").unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{to}: {error}");
    }
    assert!(load(THREE, &[]).unwrap_err().contains("--node"));
    assert!(as_node(THREE, "d").unwrap_err().contains("not among cluster.nodes (a, b, c)"));
    let unsafe_quorum = THREE.replacen("[cluster]", "[cluster]\nwrite_quorum = 1\nunsafe_quorum = true", 1);
    assert_eq!(as_node(&unsafe_quorum, "a").unwrap().cluster.unwrap().topology.write_quorum(), 1);
    let remote = THREE.replace("127.0.0.1:3001", "10.0.0.3:3001");
    let insecure = [("AMBERBLOB_CURRENT_NODE", "a"), ("AMBERBLOB_CLUSTER__INSECURE", "true")];
    assert!(load(&remote, &insecure).unwrap().cluster.unwrap().may_cross_networks());
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let tls = [
        ("AMBERBLOB_CURRENT_NODE", "a"),
        ("AMBERBLOB_CLUSTER__TLS__CERTIFICATE", path),
        ("AMBERBLOB_CLUSTER__TLS__KEY", path),
        ("AMBERBLOB_CLUSTER__TLS__AUTHORITY", path),
    ];
    let tls = load(&remote, &tls).unwrap().cluster.unwrap().tls.unwrap();
    assert_eq!((tls.key.as_path(), tls.authority.as_path()), (file.path(), file.path()));
}
