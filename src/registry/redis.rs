//! Redis: keys under `amberblob/<cluster>/`, announcements with an expiry.
//!
//! Every command concerns one key, so any Redis from 2.6 on does, and Valkey; a sharded Redis Cluster does not. A connection on
//! which something failed, or was given up, is not used again, since an answer that comes late would be taken for another's.
//!
//! No transactions: the client (redis 1.8.1) subtracts below zero when a server refuses MULTI, which ends a process
//! that checks its arithmetic. Nothing here needs them: what decides is one command, and whoever writes between two of
//! ours is met at the next beat.

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, Pipeline,
    RedisConnectionInfo, RedisError,
};

use super::settings::Settings;
use super::{CHECK_PASSWORD, Registry, Sighting, Trouble};
use crate::base::topology::Topology;
use crate::limits::ANNOUNCEMENT_MAX;

/// Deletes a key if it still has the value.
const DELETE_OWN: &str =
    "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end";

/// See above.
pub(super) struct Redis {
    settings: Settings,
    charter: String,
    /// By node.
    keys: Vec<String>,
    me: usize,
    connection: Option<MultiplexedConnection>,
    /// The server to ask next.
    turn: usize,
    announced: Option<String>,
}

impl Redis {
    pub(super) fn new(settings: Settings, topology: &Topology) -> Self {
        let below = format!("amberblob/{}", topology.cluster());
        Self {
            settings,
            charter: format!("{below}/charter"),
            keys: topology.nodes().map(|id| format!("{below}/nodes/{}", topology.name(id))).collect(),
            me: topology.me().index(),
            connection: None,
            turn: 0,
            announced: None,
        }
    }

    fn lease(&self) -> u64 {
        self.settings.lease.as_millis() as u64
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, Trouble> {
        let endpoint = &self.settings.endpoints[self.turn % self.settings.endpoints.len()];
        self.turn += 1;
        let mut user = RedisConnectionInfo::default().set_db(endpoint.database).set_skip_set_lib_name();
        if let Some(name) = &self.settings.username {
            user = user.set_username(name);
        }
        if let Some(password) = &self.settings.password {
            user = user.set_password(password.reveal());
        }
        let describe = |error| trouble(&endpoint.to_string(), &error);
        let info = ConnectionAddr::Tcp(endpoint.host.clone(), endpoint.port).into_connection_info();
        let client = info.and_then(|info| Client::open(info.set_redis_settings(user))).map_err(describe)?;
        let patience = Some(self.settings.patience());
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(patience).set_response_timeout(patience);
        client.get_multiplexed_async_connection_with_config(&config).await.map_err(describe)
    }

    /// Runs some commands; their connection is kept only when all went well.
    async fn run<T: redis::FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T, Trouble> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let answer = commands.query_async(&mut connection).await;
        let asked = self.turn.wrapping_sub(1) % self.settings.endpoints.len();
        let answer = answer.map_err(|error| trouble(&self.settings.endpoints[asked].to_string(), &error))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// Sets a key if it is not there, and reads it.
    async fn set_new(&mut self, key: String, value: &str, expires: bool) -> Result<(bool, String), Trouble> {
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(&key).arg(value).arg("NX");
        if expires {
            commands.arg("PX").arg(self.lease());
        }
        commands.getrange(&key, 0, ANNOUNCEMENT_MAX.cast_signed());
        let (set, value): (Option<String>, Vec<u8>) = self.run(&commands).await?;
        Ok((set.is_some(), text(value)))
    }
}

impl Registry for Redis {
    async fn form(&mut self, charter: &str) -> Result<String, Trouble> {
        let (_, stands) = self.set_new(self.charter.clone(), charter, false).await?;
        if stands.is_empty() {
            return Err(Trouble::new("redis: it does not keep what it is told"));
        }
        Ok(stands)
    }

    async fn claim(&mut self, record: &str) -> Result<Option<String>, Trouble> {
        let (new, stands) = self.set_new(self.keys[self.me].clone(), record, true).await?;
        Ok((!new).then_some(stands))
    }

    async fn announce(&mut self, record: &str) -> Result<Option<String>, Trouble> {
        let key = &self.keys[self.me];
        let mut commands = redis::pipe();
        commands.getrange(key, 0, ANNOUNCEMENT_MAX.cast_signed());
        commands.cmd("SET").arg(key).arg(record).arg("PX").arg(self.lease()).ignore();
        let (before,): (Vec<u8>,) = self.run(&commands).await?;
        self.announced = Some(record.to_owned());
        Ok(Some(text(before)).filter(|before| !before.is_empty()))
    }

    async fn look(&mut self) -> Result<Vec<Sighting>, Trouble> {
        let mut commands = redis::pipe();
        for key in &self.keys {
            commands.getrange(key, 0, ANNOUNCEMENT_MAX.cast_signed());
        }
        let found: Vec<Vec<u8>> = self.run(&commands).await?;
        let sighting = |value: Vec<u8>| {
            if value.is_empty() { Sighting::Nothing } else { Sighting::Announced(text(value)) }
        };
        Ok(found.into_iter().map(sighting).collect())
    }

    async fn withdraw(&mut self) -> Result<(), Trouble> {
        let Some(announced) = self.announced.take() else { return Ok(()) };
        let mut commands = redis::pipe();
        commands.cmd("EVAL").arg(DELETE_OWN).arg(1).arg(&self.keys[self.me]).arg(announced).ignore();
        self.run::<()>(&commands).await
    }
}

/// What is no UTF-8 is no record either, and refused as such.
fn text(value: Vec<u8>) -> String {
    String::from_utf8(value).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn trouble(endpoint: &str, error: &RedisError) -> Trouble {
    // Of several commands that were refused, the first says why.
    let first = error.clone().into_server_errors().and_then(|errors| Some(errors.first()?.1.to_string()));
    let said = first.unwrap_or_else(|| error.to_string());
    let denied = error.kind() == ErrorKind::AuthenticationFailed
        || ["NOAUTH", "WRONGPASS", "NOPERM"].iter().any(|code| said.contains(code));
    let hint = if denied { CHECK_PASSWORD } else { "" };
    Trouble::new(format!("redis {endpoint}: {said}{hint}"))
}
