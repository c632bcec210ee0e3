//! What a test asks of the process that serves its devices: one line of JSON each way, one question at a time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::faults::Fault;
use super::log::{Event, Loss};

/// The process answers at once; making the image of a state is the longest.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Moment,
    /// `template` is a file with what is on it; `logged` devices can be cut.
    Create {
        name: String,
        size: u64,
        template: PathBuf,
        logged: bool,
    },
    Cut {
        of: String,
        at: u64,
        loss: Loss,
        seed: u64,
        name: String,
        logged: bool,
    },
    SetFaults {
        name: String,
        faults: Vec<Fault>,
    },
    Events {
        name: String,
    },
    Remove {
        name: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Moment(u64),
    Events(Vec<Event>),
    Wrong(String),
}

/// The test's end of the stream.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The process's first line, when its file system is mounted.
    pub fn hear(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err("the process that serves the devices has ended".to_owned()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("{line:?}: {error}")),
            Err(error) => Err(format!("the process that serves the devices does not answer: {error}")),
        }
    }

    pub fn ask(&mut self, ask: &Ask) -> Result<Answer, String> {
        say(self.stream.get_mut(), ask).map_err(|error| format!("{ask:?}: {error}"))?;
        match self.hear()? {
            Answer::Wrong(wrong) => Err(wrong),
            answer => Ok(answer),
        }
    }
}

pub fn say(stream: &mut UnixStream, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}
