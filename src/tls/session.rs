//! TLS without IO: bytes of the network in, bytes of the stream out, and back.
//!
//! Sealed bytes are queued in the order in which they were made, since each record is encrypted under its number. What was
//! received and is no whole message yet stays here, and is shown with every step: the records of one message are put
//! together where they lie, so a step that did not see them would not find them.

use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, Error, ServerConfig};

use super::buffers::{Buffer, Buffers};
use super::verify::explain;

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// One TLS connection.
pub(super) struct Session {
    side: Side,
    buffers: Buffers,
    /// Received and not yet opened.
    network: Option<Buffer>,
    /// Sealed and not yet sent.
    sealed: Option<Buffer>,
    /// The peer has said that it sends no more.
    pub(super) peer_finished: bool,
}

/// What a step came to.
enum Progress {
    /// Something was done; there may be more to do.
    Moved,
    /// More bytes of the network are needed.
    Blocked,
    PeerFinished,
}

/// A step, and how many bytes of the network it used up.
type Step = (usize, Result<Progress, Error>);

impl Session {
    pub(super) fn accept(config: Arc<ServerConfig>, buffers: &Buffers) -> io::Result<Self> {
        let side = UnbufferedServerConnection::new(config).map(Side::Server);
        Self::new(side, buffers)
    }

    pub(super) fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        buffers: &Buffers,
    ) -> io::Result<Self> {
        let side = UnbufferedClientConnection::new(config, name).map(Side::Client);
        Self::new(side, buffers)
    }

    fn new(side: Result<Side, Error>, buffers: &Buffers) -> io::Result<Self> {
        let side = side.map_err(io::Error::other)?;
        Ok(Self { side, buffers: buffers.clone(), network: None, sealed: None, peer_finished: false })
    }

    /// Whether each side has accepted the other.
    pub(super) fn is_established(&self) -> bool {
        match &self.side {
            Side::Server(server) => !server.is_handshaking(),
            Side::Client(client) => !client.is_handshaking() && client.tls13_tickets_received() > 0,
        }
    }

    /// The verified certificate of the peer.
    pub(super) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let chain = match &self.side {
            Side::Server(server) => server.peer_certificates(),
            Side::Client(client) => client.peer_certificates(),
        };
        chain.and_then(<[_]>::first)
    }

    /// Where the next bytes of the network go.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let network = self.network.get_or_insert_with(|| self.buffers.take());
        network.make_room();
        network.room()
    }

    /// Takes the first bytes of the room as received, and opens all that is whole. `plain` needs a whole buffer's room.
    ///
    /// # Errors
    /// When the bytes are not what the peer sealed, or the peer is refused. An alert that says so is then queued.
    pub(super) fn open(&mut self, received: usize, plain: &mut Buffer) -> io::Result<()> {
        if let Some(network) = &mut self.network {
            network.fill(received);
        }
        let opened = loop {
            match self.step(Some(plain)) {
                Ok(Progress::Moved) => {}
                Ok(Progress::PeerFinished) => self.peer_finished = true,
                Ok(Progress::Blocked) => break Ok(()),
                Err(error) => {
                    while self.wants_write() && self.step(None).is_ok() {}
                    break Err(io::Error::new(io::ErrorKind::InvalidData, explain(&error)));
                }
            }
        };
        self.rest();
        opened
    }

    /// Seals bytes, or with none of them the end of what we send.
    ///
    /// # Errors
    /// When the keys are used up.
    pub(super) fn seal(&mut self, plain: &[u8]) -> io::Result<()> {
        // What the session has to say by itself comes first.
        loop {
            match self.step(None).map_err(io::Error::other)? {
                Progress::Moved => {}
                Progress::PeerFinished => self.peer_finished = true,
                Progress::Blocked => break,
            }
        }
        let sealed = self.sealed.get_or_insert_with(|| self.buffers.take());
        let network = self.network.as_deref_mut().unwrap_or_default();
        match &mut self.side {
            Side::Server(server) => encrypt(server.process_tls_records(network), sealed, plain),
            Side::Client(client) => encrypt(client.process_tls_records(network), sealed, plain),
        }
    }

    fn step(&mut self, plain: Option<&mut Buffer>) -> Result<Progress, Error> {
        let sealed = self.sealed.get_or_insert_with(|| self.buffers.take());
        let network = self.network.as_deref_mut().unwrap_or_default();
        let (used, progress) = match &mut self.side {
            Side::Server(server) => settle(server.process_tls_records(network), sealed, plain),
            Side::Client(client) => settle(client.process_tls_records(network), sealed, plain),
        };
        if let Some(network) = &mut self.network {
            network.consume(used);
        }
        progress
    }

    fn wants_write(&self) -> bool {
        match &self.side {
            Side::Server(server) => server.wants_write(),
            Side::Client(client) => client.wants_write(),
        }
    }

    /// Gives back the buffers that hold nothing.
    fn rest(&mut self) {
        self.sealed.take_if(|sealed| sealed.is_empty());
        self.network.take_if(|network| network.is_empty());
    }

    /// What is to be sent.
    pub(super) fn sealed(&self) -> &[u8] {
        self.sealed.as_deref().unwrap_or_default()
    }

    /// Says how much of it was sent; the buffer goes back when that is all.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(sealed) = &mut self.sealed {
            sealed.consume(bytes);
        }
        self.rest();
    }
}

fn settle<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    sealed: &mut Buffer,
    plain: Option<&mut Buffer>,
) -> Step {
    let UnbufferedStatus { mut discard, state } = status;
    let progress = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => match plain {
            None => Err(Error::General("bytes were opened that nobody asked for".to_owned())),
            Some(plain) => loop {
                match traffic.next_record() {
                    Some(Ok(record)) if record.payload.len() > plain.room().len() => {
                        break Err(Error::General("the peer sent more than it was let to".to_owned()));
                    }
                    Some(Ok(record)) => {
                        discard += record.discard;
                        plain.extend(record.payload);
                    }
                    Some(Err(error)) => break Err(error),
                    None => break Ok(Progress::Moved),
                }
            },
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => match data.encode(sealed.room()) {
            Ok(bytes) => {
                sealed.fill(bytes);
                Ok(Progress::Moved)
            }
            Err(EncodeError::InsufficientSize(_) | EncodeError::AlreadyEncoded) => {
                Err(Error::General("what is to be sent outgrows its buffer".to_owned()))
            }
        },
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // The queue keeps the order, which is all that matters here.
            data.done();
            Ok(Progress::Moved)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Progress::PeerFinished),
        // Early data is never offered, and never accepted.
        Ok(_) => Ok(Progress::Blocked),
    };
    (discard, progress)
}

fn encrypt<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    sealed: &mut Buffer,
    plain: &[u8],
) -> io::Result<()> {
    let ConnectionState::WriteTraffic(mut traffic) = status.state.map_err(io::Error::other)? else {
        return Err(io::Error::other("the TLS connection takes nothing more"));
    };
    let written = if plain.is_empty() {
        traffic.queue_close_notify(sealed.room())
    } else {
        traffic.encrypt(plain, sealed.room())
    };
    sealed.fill(written.map_err(io::Error::other)?);
    Ok(())
}
