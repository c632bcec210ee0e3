//! etcd, by the JSON gateway of its v3 API: keys under `amberblob/<cluster>/`, announcements tied to a lease.
//!
//! The gateway rather than gRPC, because the client crate compiles etcd's .proto files with `protoc`, which a machine with Rust and
//! a C compiler lacks. hyper and tokio are all that this takes, a connection for each question; a few questions every
//! few seconds need no more.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::settings::{Endpoint, Settings};
use super::{CHECK_PASSWORD, Registry, Sighting, Trouble, http};
use crate::base::topology::Topology;
use crate::limits::{ANNOUNCEMENT_MAX, ANSWER_HEAD_MAX};

/// See above.
pub(super) struct Etcd {
    settings: Settings,
    charter: String,
    /// By node.
    keys: Vec<String>,
    me: usize,
    /// The server that is asked.
    turn: usize,
    lease: Option<String>,
    token: Option<String>,
}

/// An answer that is no success.
enum Refusal {
    /// The server could not be asked, or said no.
    Failed(Trouble),
    /// It does not know who asks any more.
    NotLoggedIn(Trouble),
    /// It does not know the lease any more.
    NoLease(Trouble),
}

/// A key and its value, in base64.
#[derive(Deserialize)]
struct Pair {
    value: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Response {
    response_range: Option<Range>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Transaction {
    succeeded: bool,
    responses: Vec<Response>,
}

impl Etcd {
    pub(super) fn new(settings: Settings, topology: &Topology) -> Self {
        let key = |name: &str| BASE64.encode(format!("amberblob/{}/{name}", topology.cluster()));
        Self {
            settings,
            charter: key("charter"),
            keys: topology.nodes().map(|id| key(&format!("nodes/{}", topology.name(id)))).collect(),
            me: topology.me().index(),
            turn: 0,
            lease: None,
            token: None,
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.settings.endpoints[self.turn % self.settings.endpoints.len()]
    }

    /// Asks one server; a failure, or giving up, makes it another's turn.
    async fn ask(&mut self, path: &str, body: &Value) -> Result<Value, Refusal> {
        let authority = self.endpoint().to_string();
        let describe = |text: &dyn std::fmt::Display| Trouble::new(format!("etcd {authority}: {text}"));
        self.turn += 1;
        let question = http::question(&authority, path, Some(body.to_string()), self.token.as_deref())
            .map_err(Refusal::Failed)?;
        let limit = ANSWER_HEAD_MAX + 2 * ANNOUNCEMENT_MAX * (self.keys.len() + 1);
        let (status, answer) = http::ask(&authority, question, limit)
            .await
            .map_err(|error| Refusal::Failed(describe(&error)))?;
        self.turn -= 1;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| {
            Refusal::Failed(describe(&format!("{status}, and no answer of etcd: {error}")))
        })?;
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let message = ["message", "error"].iter().find_map(|key| answer.get(key)?.as_str());
        let message = message.unwrap_or("it says no").to_owned();
        let trouble = describe(&message);
        if message.contains("auth token") {
            return Err(Refusal::NotLoggedIn(trouble));
        }
        if message.contains("lease not found") {
            return Err(Refusal::NoLease(trouble));
        }
        if ["user", "password", "permission"].iter().any(|word| message.contains(word)) {
            return Err(Refusal::Failed(Trouble::new(format!("{trouble}{CHECK_PASSWORD}"))));
        }
        self.turn += 1;
        Err(Refusal::Failed(trouble))
    }

    async fn log_in(&mut self) -> Result<(), Refusal> {
        let (Some(name), Some(password)) = (self.settings.username.clone(), self.settings.password.clone())
        else {
            return Ok(());
        };
        let question = json!({ "name": name, "password": password.reveal() });
        let answer = self.ask("/v3/auth/authenticate", &question).await?;
        self.token = answer.get("token").and_then(Value::as_str).map(str::to_owned);
        Ok(())
    }

    /// Asks as the user that the config names.
    async fn ask_as_user(&mut self, path: &str, body: &Value) -> Result<Value, Refusal> {
        if self.token.is_none() {
            self.log_in().await?;
        }
        match self.ask(path, body).await {
            Err(Refusal::NotLoggedIn(_)) if self.token.take().is_some() => {
                self.log_in().await?;
                self.ask(path, body).await
            }
            answer => answer,
        }
    }

    async fn get<T: for<'de> Deserialize<'de>>(&mut self, path: &str, body: &Value) -> Result<T, Refusal> {
        let answer = self.ask_as_user(path, body).await?;
        serde_json::from_value(answer).map_err(|error| {
            Refusal::Failed(Trouble::new(format!("etcd {}: no answer of etcd: {error}", self.endpoint())))
        })
    }

    /// A lease that was just renewed, or a new one.
    async fn renew(&mut self) -> Result<String, Refusal> {
        if let Some(id) = self.lease.take() {
            let answer = self.ask_as_user("/v3/lease/keepalive", &json!({ "ID": id })).await?;
            // One that has run out comes back without a time to live.
            if answer.pointer("/result/TTL").and_then(Value::as_str).is_some_and(|ttl| ttl != "0") {
                self.lease = Some(id.clone());
                return Ok(id);
            }
        }
        let seconds = self.settings.lease.as_millis().div_ceil(1000);
        let answer = self.ask_as_user("/v3/lease/grant", &json!({ "TTL": seconds.to_string() })).await?;
        let Some(id) = answer.get("ID").and_then(Value::as_str) else {
            return Err(Refusal::Failed(Trouble::new(format!("etcd {}: it gave no lease", self.endpoint()))));
        };
        self.lease = Some(id.to_owned());
        Ok(id.to_owned())
    }

    /// Sets a key if it is not there; what stands there otherwise.
    async fn set_new(&mut self, key: &str, value: &str, lease: &str) -> Result<Option<String>, Refusal> {
        let put = json!({ "key": key, "value": BASE64.encode(value), "lease": lease });
        let body = json!({
            "compare": [{ "key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0" }],
            "success": [{ "request_put": put }],
            "failure": [{ "request_range": { "key": key } }],
        });
        let answer: Transaction = self.get("/v3/kv/txn", &body).await?;
        Ok(if answer.succeeded {
            None
        } else {
            answer.responses.into_iter().next().and_then(Response::value)
        })
    }
}

impl Response {
    fn value(self) -> Option<String> {
        self.response_range?.kvs.into_iter().next().map(Pair::text)
    }
}

impl Pair {
    /// What is no UTF-8 is no record either, and refused as such.
    fn text(self) -> String {
        let bytes = BASE64.decode(self.value.unwrap_or_default()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(trouble) | Refusal::NotLoggedIn(trouble) | Refusal::NoLease(trouble) => trouble,
        }
    }
}

impl Registry for Etcd {
    async fn form(&mut self, charter: &str) -> Result<String, Trouble> {
        let key = self.charter.clone();
        let stands = self.set_new(&key, charter, "0").await?;
        Ok(stands.unwrap_or_else(|| charter.to_owned()))
    }

    async fn claim(&mut self, record: &str) -> Result<Option<String>, Trouble> {
        let lease = self.renew().await?;
        let key = self.keys[self.me].clone();
        Ok(self.set_new(&key, record, &lease).await?)
    }

    async fn announce(&mut self, record: &str) -> Result<Option<String>, Trouble> {
        let mut lease = self.renew().await?;
        let key = self.keys[self.me].clone();
        let put = |lease: &str| json!({ "key": key, "value": BASE64.encode(record), "lease": lease, "prev_kv": true });
        let answer = match self.ask_as_user("/v3/kv/put", &put(&lease)).await {
            // It ran out in between.
            Err(Refusal::NoLease(_)) => {
                self.lease = None;
                lease = self.renew().await?;
                self.ask_as_user("/v3/kv/put", &put(&lease)).await?
            }
            answer => answer?,
        };
        let before = answer.get("prev_kv").cloned().and_then(|pair| serde_json::from_value(pair).ok());
        Ok(before.map(Pair::text))
    }

    async fn look(&mut self) -> Result<Vec<Sighting>, Trouble> {
        let ranges: Vec<Value> =
            self.keys.iter().map(|key| json!({ "request_range": { "key": key } })).collect();
        let answer: Transaction = self.get("/v3/kv/txn", &json!({ "success": ranges })).await?;
        let sighting = |response: Response| response.value().map_or(Sighting::Nothing, Sighting::Announced);
        Ok(answer.responses.into_iter().map(sighting).collect())
    }

    async fn withdraw(&mut self) -> Result<(), Trouble> {
        let Some(id) = self.lease.take() else { return Ok(()) };
        // The announcement goes with its lease; one that another has written since does not.
        self.ask_as_user("/v3/lease/revoke", &json!({ "ID": id })).await?;
        Ok(())
    }
}
