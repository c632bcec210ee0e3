//! Every bound of the server in one place, related to one another where one rests on another.
//!
//! A value here is a promise: memory, queues, files, retries, header sizes and times are bounded by it.
//! Sizes are bytes, times are [`Duration`]s.

use std::time::Duration;

/// Slots of the name space; fixed for ever, since a blob's directory is named by its slot.
pub const SLOTS: u16 = 2048;

/// Nodes of a cluster.
pub const NODES_MAX: usize = 32;

/// Version of the protocol between nodes: raised when a release cannot talk to an older one.
pub const PROTOCOL: u32 = 5;
/// A message between nodes.
pub const PEER_MESSAGE_MAX: usize = 32 << 20;
/// Time for a connection to another node.
pub const PEER_CONNECT: Duration = Duration::from_secs(1);
/// Time without an answer after which a node is taken for one that does not answer, until it does again.
pub const SLOW_ANSWER: Duration = Duration::from_secs(1);
/// Silence of a coordinator in the middle of a body: its client may fill a small buffer at the slowest rate.
pub const PEER_SILENCE: Duration = Duration::from_mins(5);
/// Connections of one core to another node that are in use.
pub const LINKS_BUSY: usize = 1024;
/// Connections of one core to another node that are kept for the next request.
pub const LINKS_IDLE: usize = 64;
/// How long they are kept; less than the other end keeps them.
pub const LINK_IDLE_TIME: Duration = Duration::from_secs(30);
/// How often a request is passed on before it is given up.
pub const HOPS_MAX: u32 = 2;
/// As if it had been passed on so often: it is answered from what is on the disks of who is asked, or not at all.
pub const HOPS_FILES: u32 = HOPS_MAX + 1;
/// Time that another node has to answer a request that was passed on to it, and for each further piece of the answer.
pub const FORWARD_TIME: Duration = Duration::from_secs(30);
/// Time it has until it answers a read, or asks for a body, while there is another node to ask.
pub const FORWARD_READ_TIME: Duration = Duration::from_secs(6);
/// Body of an answer that is taken whole before it is passed on.
pub const FORWARD_SMALL: u64 = 16 << 10;
/// Time that an upload may wait for one of its replicas, beside a quarter of its own.
pub const LAG_MIN: Duration = Duration::from_secs(1);
/// Time a replica gets to sync what it received.
pub const UPLOAD_FINISH: Duration = Duration::from_secs(30);
/// How often a node asks every other one whether it is there.
pub const HEARTBEAT: Duration = Duration::from_millis(200);
/// The same, of a node that refuses to answer.
pub const HEARTBEAT_REFUSED: Duration = Duration::from_secs(5);
/// Time for an answer to a question about the cluster.
pub const CLUSTER_TIME: Duration = Duration::from_secs(5);
/// Versions that a replica hands over at a time.
pub const HANDOVER_ROWS: usize = 512;
/// Time in which slots that have lost their databases are gathered at the start, so that their disk gets one new identity.
pub const LOSSES_GATHERED: Duration = Duration::from_secs(5);
/// Time for one slot's rows to come over from one node.
pub const SYNC_PULL_TIME: Duration = Duration::from_mins(5);
/// Time for a writer to put a database aside and make another.
pub const PUT_ASIDE_TIME: Duration = Duration::from_secs(30);
/// Slots that one core recovers at once.
pub const RECOVERIES: usize = 8;
/// How often a core looks for slots to recover, versions to fetch and uploads to give up.
pub const CHORES: Duration = Duration::from_millis(250);
/// Age at which a try without an outcome is asked about.
pub const SETTLE_AFTER: Duration = Duration::from_secs(2);
/// Longest pause before a slot's tries in doubt are asked about again.
pub const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(2);
/// Tries of one slot that are settled in one go.
pub const SETTLE_BATCH: usize = 64;
/// Tries that one core gathers before it settles them.
pub const SETTLES_GATHERED: usize = 256;
/// Tries that one core settles at once.
pub const SETTLES: usize = 32;
/// Shortest pause after a try that could not be settled, or a version that could not be fetched; it doubles.
pub const CHORE_PAUSE: Duration = Duration::from_secs(1);
/// Longest such pause.
pub const CHORE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Such pauses that one core remembers when they are over.
pub const CHORE_PAUSES: usize = 4096;
/// Versions without chunks that one core gathers before it fetches them.
pub const FILL_BATCH: usize = 64;
/// Versions that one core fetches at once.
pub const FILLS: usize = 4;
/// Bytes of chunks that may be fetched at once under `sync.rate`, in time at that rate.
pub const SYNC_BURST: Duration = Duration::from_millis(500);
/// Chunk ids that one node tells another at a time.
pub const SYNC_CHUNKS: usize = 4096;
/// Pieces into which a range that differs is cut.
pub const SYNC_PIECES: usize = 16;
/// Rows of a range below which their items are compared.
pub const SYNC_LEAF: usize = 64;
/// Items of one answer.
pub const SYNC_ITEMS: usize = 1024;
/// Rows that are asked for and taken over at a time.
pub const SYNC_ROWS: usize = 256;
/// Rows that a writer takes into a slot's digest, and a reader makes items of, in one go: some milliseconds.
pub const SYNC_SCAN: usize = 1024;
/// Time that a node takes to make digests before it answers with those it has.
pub const SYNC_DIGEST_TIME: Duration = Duration::from_secs(10);
/// Slots that one core compares with other nodes at once.
pub const SYNC_SLOTS: usize = 4;
/// Time for an answer to a question about what differs.
pub const SYNC_TIME: Duration = Duration::from_secs(30);
/// Time until replicas that differed are compared again; it doubles for as long as they differ.
pub const SYNC_AGAIN: Duration = Duration::from_secs(1);
/// Shortest interval at which replicas that did not differ are compared.
pub const SYNC_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Times that `POST /sync` looks at a node in which there is always something new.
pub const SYNC_LOOKS: usize = 8;
/// Time without any progress after which `POST /sync` says what is still lacking.
pub const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// How long data waits for its vote.
pub const UPLOAD_KEEP: Duration = Duration::from_mins(1);
/// Blobs whose data waits for a vote.
pub const UPLOADS_MAX: usize = 16 << 10;
/// Time a coordinator waits for votes.
pub const PREPARE_TIME: Duration = Duration::from_secs(5);
/// Time it waits to hear how a try stands.
pub const ASK_TIME: Duration = Duration::from_secs(2);
/// Time it waits for commits and tombstones.
pub const COMMIT_TIME: Duration = Duration::from_secs(5);
/// Time a strong read waits for a quorum.
pub const READ_TIME: Duration = Duration::from_secs(3);
/// Time after which a PUT or DELETE does not try again.
pub const WRITE_TIME: Duration = Duration::from_secs(10);
/// Shortest pause before another try; it grows with the tries.
pub const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Tries of one PUT.
pub const TRIES_MAX: u32 = 32;
/// Times a strong read begins again because the path changes under it.
pub const READS_MAX: u32 = 8;
/// Versions that a DELETE of all versions takes at a time.
pub const DELETE_PAGE: u32 = 256;

/// Bytes of a chunk; only the last chunk of a blob is shorter.
pub const CHUNK_SIZE: u64 = 64 << 20;

/// Bytes that one CRC32C covers: the unit in which reads are verified.
pub const GRANULE_SIZE: u64 = 16 << 10;

/// Bytes of a part: the stretch of a blob whose checksums share one row, and the unit of the block cache.
pub const PART_SIZE: u64 = 2 << 20;

/// Parts of a whole chunk.
pub const PARTS_PER_CHUNK: u64 = CHUNK_SIZE / PART_SIZE;

/// A chunk of at most this size lives in its slot's database instead of a file.
pub const INLINE_MAX: u64 = 64 << 10;

/// Largest blob: 16 TiB, 262,144 chunks.
pub const BLOB_MAX: u64 = 16 << 40;

/// Largest number in a query, and so the largest version: what JSON numbers hold exactly.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Alignment of buffers, offsets and lengths of direct reads and writes.
pub const DIRECT_ALIGN: usize = 4096;

/// Path length in bytes after decoding.
pub const PATH_MAX: usize = 1024;

/// Request line.
pub const REQUEST_LINE_MAX: usize = 8 << 10;
/// Header section (all fields together).
pub const HEADERS_MAX: usize = 32 << 10;
/// Header fields.
pub const HEADER_FIELDS_MAX: usize = 100;
/// What a node may add to the request line of a client's request that it passes on.
pub const PEER_LINE_ADDS: usize = 64;
/// What it may add to the header section: the names of the cluster and of two nodes, and some numbers.
pub const PEER_HEADERS_ADDS: usize = 1 << 10;
/// Fields that it may add to a request, and to what was stored with a blob in its answer.
pub const PEER_FIELDS_ADDS: usize = 24;
/// Stored fields of a blob (`Content-Type`, `x-amber-meta-*`, ...), names and values together.
pub const STORED_HEADERS_MAX: usize = 16 << 10;
/// A chunk-size line of a chunked body, its extensions included.
pub const CHUNK_LINE_MAX: usize = 1 << 10;
/// Trailer section of a chunked body.
pub const TRAILERS_MAX: usize = 8 << 10;
/// Ranges of one request.
pub const RANGES_MAX: usize = 16;
/// What a connection reads of a body that nobody wants before it closes instead.
pub const SKIP_BODY_MAX: u64 = 1 << 20;
/// What a connection drains after an early error, so that the client gets to read it.
pub const DRAIN_MAX: u64 = 256 << 20;
/// How long it drains.
pub const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Time for a whole request head, from its first byte.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// Time a connection may idle between requests.
pub const IDLE_TIME: Duration = Duration::from_secs(75);
/// Slowest body, bytes per second, over the time spent waiting for the client.
pub const RATE_MIN: u64 = 1 << 10;
/// Time a body may lag behind that rate.
pub const RATE_GRACE: Duration = Duration::from_secs(10);
/// Time a response may stand still before the connection is closed.
pub const SEND_STALL: Duration = Duration::from_mins(5);
/// Time a response that is held in memory may take.
pub const SEND_TIME: Duration = Duration::from_secs(30);
/// Time a block may take to send before it goes back and the connection waits without it.
pub const SEND_PATIENCE: Duration = Duration::from_millis(100);
/// Time from SIGTERM until running requests are cut off.
pub const STOP_TIME: Duration = Duration::from_secs(15);

/// Connections that wait to be accepted, per core.
pub const BACKLOG: i32 = 4096;
/// Time that a port may still be taken at the start, by a node that was killed just before.
pub const PORT_WAIT: Duration = Duration::from_secs(3);
/// Time between two attempts to take it.
pub const PORT_RETRY: Duration = Duration::from_millis(10);
/// Entries of a core's ring.
pub const RING_ENTRIES: u32 = 4096;
/// Entries that a core hands to its bulk ring at a time.
pub const BULK_ENTRIES: u32 = 128;
/// Completions that wait in a bulk ring until the core fetches them; more wait in the kernel, one allocation each.
pub const BULK_COMPLETIONS: u32 = 4 << 10;
/// What a core's two rings may be charged against the limit of locked memory.
pub const RING_MEMORY: u64 = 1 << 20;
/// Sends under way in one bulk ring.
pub const BULK_SENDS: usize = 2048;
/// Receives under way in one bulk ring.
pub const BULK_RECEIVES: usize = 2048;
/// Reads and writes of files under way in one bulk ring.
pub const BULK_FILE_OPERATIONS: usize = 1024;
/// Zero-copy sends of one core that wait for their notifications; further sends are copied.
pub const BULK_NOTICES: usize = 512;
/// Regions of one zero-copy send, an entry each.
pub const BULK_CHAIN: usize = 8;
/// Regions of any other operation.
pub const BULK_REGIONS: usize = 64;
/// Bytes of one send.
pub const BULK_SEND_MAX: usize = 1 << 30;
/// Time until a ring that could not be entered is tried again.
pub const BULK_RETRY: Duration = Duration::from_millis(1);
/// A rest of a response of at most this size is sent without the ring, as far as the socket takes it.
pub const SEND_NOW_MAX: usize = 256 << 10;
/// Time that operations have to end when their ring is closed.
pub const BULK_LAST_WAIT: Duration = Duration::from_millis(200);
/// Extents of memory registered with the kernel.
pub const EXTENTS_MAX: u16 = 16 << 10;
/// Smallest send that goes zero-copy: below, pinning and notifying cost more than the copy.
pub const ZERO_COPY_MIN: usize = 32 << 10;
/// Bytes of one core's zero-copy sends that peers have not acknowledged; further sends are copied.
pub const ZERO_COPY_HELD: usize = 64 << 20;
/// Copies reported in a row that end the zero-copy of a connection.
pub const ZERO_COPY_STRIKES: u32 = 3;

/// Connections per core, all cores together; a further one is closed at once.
pub const CONNECTIONS_PER_CORE: usize = 16 << 10;
/// Connections accepted by another core that wait for one core.
pub const HANDED_OVER: usize = 1024;
/// Commands waiting for one core's metadata writer.
pub const WRITER_QUEUE: usize = 1024;
/// Questions waiting for one core's metadata reader.
pub const READER_QUEUE: usize = 1024;
/// Commands that one metadata writer takes into one round of commits.
pub const COMMIT_BATCH: usize = 256;
/// Batches of changes waiting for one disk's listing index.
pub const INDEX_QUEUE: usize = 1024;
/// Chunk files that one core keeps open for reading.
pub const OPEN_CHUNKS: usize = 256;
/// Time after which a chunk file that nobody reads is closed, so that the space of a dropped one comes back.
pub const OPEN_CHUNK_IDLE: Duration = Duration::from_secs(5);
/// Slots in a batch from which on the journal is worth it: below, each is committed to its own database at once.
pub const JOURNAL_SLOTS: usize = 3;
/// Bytes of a segment of the journal.
pub const JOURNAL_SEGMENT: u64 = 64 << 20;
/// Segments per disk and writer that may wait for their records to reach the databases; and spare ones kept per disk.
pub const JOURNAL_SEGMENTS: usize = 4;
/// Largest record in the journal; what is larger is committed to its database at once.
pub const RECORD_MAX: usize = 128 << 10;
/// Free space of a disk below which the journal takes nothing: what is in it must fit the databases.
pub const JOURNAL_FREE: u64 = 2 << 30;
/// Records of one writer that are in the journal and not in their databases: how many, and their bytes.
pub const PENDING_RECORDS: usize = 16 << 10;
/// See above.
pub const PENDING_BYTES: usize = 64 << 20;
/// Records of one slot among them.
pub const PENDING_PER_SLOT: usize = 256;
/// Versions of a slot up to which its writer remembers hashes of their paths: 8 to 16 bytes each.
pub const REMEMBERED_PATHS: usize = 2048;
/// How long a writer has nothing to do before it brings such records to their databases unasked.
pub const QUIET: Duration = Duration::from_millis(5);
/// Slots whose records go to their databases in one round, by [`SETTLERS`] threads, since much of it is waiting.
pub const SETTLE_ROUND: usize = 32;
/// Threads of such a round; also slots that are born at once.
pub const SETTLERS: usize = 8;
/// Changes that a listing index gathers before it writes them unasked.
pub const INDEX_GATHER: usize = 1024;
/// Databases that all writers keep open together, all slots' where files allow; 0.2 MiB each in use.
pub const WRITER_DATABASES: usize = SLOTS as usize;
/// Databases that all readers keep open together.
pub const READER_DATABASES: usize = 1024;
/// Chunks of an upload whose checksums are held in memory before they are staged in the database.
pub const STAGE_CHUNKS: usize = 16;
/// Threads for blocking file steps (create, sync, rename, remove), per core.
pub const STORAGE_THREADS: usize = 8;
/// A storage thread that is busy with one step for this long waits for a disk that does not answer, and does not count any more.
pub const STORAGE_STUCK: Duration = Duration::from_secs(5);
/// Storage threads of a core, those that wait for such a disk included.
pub const STORAGE_THREADS_MAX: usize = 64;

/// First buffer of a connection; it grows while a head needs it.
pub const INBOX_MIN: usize = 4 << 10;
/// Parts asked of the metadata at a time.
pub const PARTS_PER_QUESTION: u64 = 8;
/// Bytes of a range that are read before they are sent, at first.
pub const READ_AHEAD_MIN: u64 = 4 << 20;
/// The same, once the disk was waited for.
pub const READ_AHEAD_MAX: u64 = 16 << 20;
/// Bytes gathered for one send.
pub const SEND_MAX: usize = 4 << 20;
/// An upload whose buffer fills within this time gets larger ones.
pub const FAST_FILL: Duration = Duration::from_millis(250);
/// Smallest transfer buffer: what a slow client can hold.
pub const BUFFER_MIN: usize = 64 << 10;
/// Largest transfer buffer.
pub const BUFFER_MAX: usize = 2 << 20;
/// Full buffers of one upload that are hashed and written; the next one is received meanwhile.
pub const WRITES_IN_FLIGHT: usize = 2;
/// What must have arrived of an upload with large buffers before it is looked at again.
pub const LOW_WATER: usize = 256 << 10;
/// What is received before a core looks after its other connections.
pub const RECEIVE_MAX: usize = 512 << 10;
/// What is hashed, of several buffers together, before a core looks after its other connections: about 100 microseconds.
pub const HASH_SLICE: usize = 256 << 10;
/// First buffers of one core's uploads, [`BUFFER_MIN`] each.
pub const FIRST_BUFFERS: usize = 64 << 20;
/// Further and larger buffers of one core's uploads.
pub const MORE_BUFFERS: usize = 128 << 20;
/// Time an upload waits for its first buffer, and a listing for room.
pub const BUFFER_WAIT: Duration = Duration::from_secs(10);
/// Blocks that one core's responses hold, in the cache or no longer.
pub const BLOCKS_HELD: usize = 256 << 20;
/// Listings that one core is sending, by a guess of [`ENTRY_SIZE`] an entry.
pub const PAGES_HELD: usize = 64 << 20;
/// Bytes that an entry of a listing is taken for.
pub const ENTRY_SIZE: usize = 512;
/// Buffers of one size kept for reuse, all cores together.
pub const IDLE_BUFFERS: usize = 64 << 20;
/// Cached answers of one core: what their records and small blobs may weigh.
pub const ANSWERS_MAX: u64 = 32 << 20;
/// Unit of the block cache for small ranges.
pub const SMALL_BLOCK: u64 = 64 << 10;
/// A range of a part that is at most this large is small.
pub const SMALL_RANGE: u64 = 256 << 10;
/// Bytes that the block cache's memory grows by.
pub const EXTENT_SIZE: usize = 32 << 20;
/// Free slots of 2 MiB below which the next extent is prepared.
pub const PARTS_AHEAD: usize = 12;
/// Smallest block cache that keeps every core moving.
pub const BLOCK_CACHE_MIN: u64 = 64 << 20;

/// Time between two attempts of an index to catch up.
pub const INDEX_RETRY: Duration = Duration::from_secs(1);
/// Rows one listing looks at before it ends early, so that a prefix full of tombstones holds nobody up.
pub const LISTING_STEPS: usize = 50_000;
/// Times that the nodes of a cluster are asked for more of one page.
pub const LIST_ROUNDS: usize = 16;

/// Length of the name of a node or a cluster.
pub const NODE_NAME_MAX: usize = 64;
/// How long a node's announcement in the registry is good for, unless the config says otherwise; renewed three times
/// within.
pub const LEASE: Duration = Duration::from_secs(10);
/// The shortest: etcd knows none below its elections.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const LEASE_MAX: Duration = Duration::from_mins(10);
/// Niceness of the thread that scrubs: of a processor that is busy serving it gets about a thirtieth.
pub const SCRUB_NICE: i32 = 15;
/// Time that the registry has for one answer; less where the lease is short.
pub const REGISTRY_TIME: Duration = Duration::from_secs(2);
/// Time until the registry is asked again while something is missing.
pub const REGISTRY_RETRY: Duration = Duration::from_secs(1);
/// Time that a start waits for the registry before it goes on without.
pub const REGISTRY_START: Duration = Duration::from_secs(5);
/// Bytes of what one node announces, and of the record of the cluster.
pub const ANNOUNCEMENT_MAX: usize = 64 << 10;
/// Disks of a node.
pub const DISKS_MAX: usize = 256;
/// Bytes of the head of an answer to a question over HTTP.
pub const ANSWER_HEAD_MAX: usize = 16 << 10;

/// How often a disk is asked whether it still does what it should.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether a disk is suspected; then it is asked at once.
pub const PROBE_TICK: Duration = Duration::from_millis(100);
/// Time it has to answer; one that takes longer has failed.
pub const PROBE_TIME: Duration = Duration::from_secs(30);
/// An answer that takes longer than this makes a disk slow.
pub const DISK_SLOW: Duration = Duration::from_secs(1);
/// Reads that fail within [`READ_ERRORS_TIME`] and make a disk suspected.
pub const READ_ERRORS: u32 = 3;
/// See above.
pub const READ_ERRORS_TIME: Duration = Duration::from_mins(1);
/// Time after which a process that is to end does so although a disk that has failed holds up a thread.
pub const STOP_LAST: Duration = Duration::from_secs(30);

/// Connections of the admin listener.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Time that a client waits for an operation that it asked for there, and for it to end.
pub const OPERATION_TIME: Duration = Duration::from_hours(30 * 24);
/// Time that the command line has to reach an admin listener.
pub const ADMIN_CONNECT: Duration = Duration::from_secs(10);
/// Bytes of an operation's report.
pub const ADMIN_ANSWER_MAX: usize = 1 << 20;
/// Connections of a client, unless it is said.
pub const CLIENT_CONNECTIONS: u16 = 4;
/// And at most.
pub const CLIENT_CONNECTIONS_MAX: u16 = 64;
/// Redirects that a client follows.
pub const CLIENT_REDIRECTS: usize = 3;
/// Times that a client begins a request again without a byte in between.
pub const CLIENT_TRIES: u32 = 5;
/// Pause before the first of them; the next ones are twice as long each.
pub const CLIENT_PAUSE: Duration = Duration::from_millis(200);
/// Times that a chunk with a wrong hash is read.
pub const CLIENT_HASH_TRIES: u32 = 3;
/// Time that a client waits for a connection, and for bytes of an answer.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(10);
/// See [`CLIENT_CONNECT`].
pub const CLIENT_IDLE: Duration = Duration::from_mins(2);
/// Bytes that a client reads from a file or from stdin at a time, and its buffer of a connection.
pub const CLIENT_PIECE: usize = 1 << 20;
/// What a client has read and not yet sent of an upload, in such pieces.
pub const CLIENT_PIECES: usize = 4;
/// Files of a tree that wait to be sent.
pub const CLIENT_FILES: usize = 64;
/// How often a client's connection looks whether another one has failed.
pub const CLIENT_TICK: Duration = Duration::from_millis(100);
/// Bytes of an answer that a client holds: a page of a listing.
pub const CLIENT_ANSWER_MAX: usize = 16 << 20;
/// Bytes of a progress file before its counts.
pub const CLIENT_HEADER: u64 = 8192;
/// Versions in a page of a listing.
pub const CLIENT_PAGE: usize = 1000;
/// Failures of a tree that are told one by one.
pub const CLIENT_FAILURES: usize = 100;
/// Free space of a disk below which the doctor sees a problem.
pub const DOCTOR_FREE_MIN: u64 = 1 << 30;
/// Time that the doctor waits for whoever it asks.
pub const DOCTOR_TIME: Duration = Duration::from_secs(5);
/// How far the clocks of two nodes may be apart.
pub const DOCTOR_CLOCK_MAX: Duration = Duration::from_secs(2);
/// A buffer of the scrub.
pub const SCRUB_BUFFER: usize = 1 << 20;
/// Passes of the scrub that run at once, a buffer each: the one that goes by itself, and one that was asked for.
pub const SCRUB_PASSES: usize = 2;
/// Versions that the scrub asks for at a time; chunks of theirs that live in the database are hashed with the answer.
pub const SCRUB_ROWS: usize = 16;
/// Chunks of a version that it asks for at a time.
pub const SCRUB_CHUNKS: u64 = 256;
/// How often it notes where it is.
pub const SCRUB_NOTE: Duration = Duration::from_secs(1);
/// How often it looks whether a pass is due, at most.
pub const SCRUB_TICK: Duration = Duration::from_mins(1);
/// Slowest rate of the scrub, bytes per second.
pub const SCRUB_RATE_MIN: u64 = 64 << 10;
/// Time that a pass waits for a place in the queue of repairs, and for repairs at its end.
pub const SCRUB_PATIENCE: Duration = Duration::from_mins(10);
/// Damaged chunks that a node knows of.
pub const DAMAGES_MAX: usize = 4096;
/// Those of them that `/readyz` names.
pub const DAMAGES_SHOWN: usize = 16;
/// Damaged chunks that wait for one core to repair them.
pub const REPAIR_QUEUE: usize = 256;
/// Time after which a core with nothing to repair tries again what it could not.
pub const REPAIR_PAUSE: Duration = Duration::from_mins(1);
/// Time that another replica has to begin to send what is damaged here.
pub const REPAIR_ANSWER_TIME: Duration = Duration::from_secs(5);
/// Time it has to send it, at most a part.
pub const REPAIR_FETCH_TIME: Duration = Duration::from_secs(10);
/// Time that a read waits for bytes that are damaged here, from all replicas together.
pub const READ_REPAIR_TIME: Duration = Duration::from_secs(25);
/// Such bytes that one core's reads hold.
pub const RESCUES_HELD: usize = 32 << 20;
/// How often the sweeper looks for chunks to drop, at most.
pub const SWEEP_TICK: Duration = Duration::from_mins(1);
/// Pause between the databases that are read after the start.
pub const VERIFY_PAUSE: Duration = Duration::from_millis(5);
/// Time after which a slot that could not be checked is looked at again.
pub const CHECK_RETRY: Duration = Duration::from_millis(500);
/// How often it looks for directories that no row names.
pub const ORPHAN_INTERVAL: Duration = Duration::from_hours(1);
/// How often it looks for files within the directories of live versions that these do not name, which it removes when it has seen
/// them before; more often where deleted versions go sooner.
pub const STRAY_INTERVAL: Duration = Duration::from_hours(24);
/// Such files that are remembered from one look to the next; what finds no place is found again.
pub const STRAYS_MAX: usize = 16 << 10;
/// Deleted versions whose chunks go in one batch.
pub const DROP_BATCH: usize = 128;

/// Time for a TLS handshake, from the first byte to the peer's consent; to a node that is asked, with the connecting.
pub const TLS_HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Accepted connections that are in their handshake; further ones wait in the backlog.
pub const TLS_HANDSHAKES: usize = 256;
/// TLS connections of verified peers, in both directions.
pub const TLS_CONNECTIONS: usize = 2048;
/// Jobs waiting for one thread of the relay.
pub const TLS_QUEUE: usize = 1024;
/// A buffer of a TLS connection, which holds at most four: two for each direction, while bytes are on their way.
pub const TLS_BUFFER: usize = 128 << 10;
/// Bytes that are sealed at a time: seven whole records.
pub const TLS_SEAL_MAX: usize = 7 << 14;
/// What a record adds to its bytes, at most; and what may have to go before: a key update, an alert.
pub const TLS_RECORD_EXTRA: usize = 256;
/// Buffers that one thread keeps for reuse.
pub const TLS_IDLE_BUFFERS: usize = 64;
/// What a TLS connection moves before its thread looks after the others: some hundred microseconds.
pub const TLS_SLICE: usize = 512 << 10;
/// Time a peer has to take the last bytes when our side is gone.
pub const TLS_LINGER: Duration = Duration::from_secs(5);
/// Time one direction may stand still when the other has ended.
pub const TLS_HALF_OPEN: Duration = SEND_STALL;
/// Largest file of certificates.
pub const TLS_FILE_MAX: u64 = 1 << 20;

/// Entries of a listing page when the request names none.
pub const PAGE_DEFAULT: usize = 1000;
/// Largest page.
pub const PAGE_MAX: usize = 10_000;

/// Free space of a disk below which writes are refused, so that deletes and commits still work; on a small disk 5%.
pub const DISK_RESERVE: u64 = 64 << 20;
/// Free space below which a failed step is put down to the full disk.
pub const FULL_BELOW: u64 = 1 << 20;
/// Pages that a database gives back to the file system after a batch of drops.
pub const VACUUM_PAGES: u32 = 16 << 10;
/// How often the free space of the disks is looked at.
pub const SPACE_INTERVAL: Duration = Duration::from_millis(200);
/// Ballast file of a disk, given up when a delete finds no space; on a small disk 2%.
pub const BALLAST: u64 = 16 << 20;

// The archive.

/// Length of a bucket's name.
pub const BUCKET_MAX: usize = 63;
/// Bytes of what the keys of objects begin with.
pub const PREFIX_MAX: usize = 256;
/// Chunks that a config may have go up at once.
pub const ARCHIVE_UPLOADS_MAX: usize = 64;
/// Bytes of a file of credentials.
pub const ARCHIVE_CREDENTIALS_MAX: u64 = 16 << 10;
/// Time after which credentials that the store refuses are read again.
pub const ARCHIVE_CREDENTIALS_PAUSE: Duration = Duration::from_secs(10);
/// Characters of what the store said that a message tells.
pub const ARCHIVE_SAID_MAX: usize = 300;
/// Time for a connection to the store.
pub const ARCHIVE_CONNECT: Duration = Duration::from_secs(5);
/// Time for the head of an answer, with the connecting.
pub const ARCHIVE_HEAD_TIME: Duration = Duration::from_secs(10);
/// Time that the body of an answer may stand still.
pub const ARCHIVE_IDLE_TIME: Duration = Duration::from_secs(10);
/// Time for one object to go up.
pub const ARCHIVE_PUT_TIME: Duration = Duration::from_mins(10);
/// Time that a read waits for bytes of an object, all tries together.
pub const ARCHIVE_READ_TIME: Duration = Duration::from_secs(30);
/// Tries of one request.
pub const ARCHIVE_TRIES: u32 = 3;
/// Pause before another try; it grows with the tries.
pub const ARCHIVE_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Pause of background work once the store has failed; it doubles for as long as it fails.
pub const ARCHIVE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest.
pub const ARCHIVE_PAUSE_MAX: Duration = Duration::from_mins(1);
/// Ranges of objects that wait to be fetched.
pub const ARCHIVE_QUEUE: usize = 256;
/// Those that are fetched at once.
pub const ARCHIVE_FETCHES: usize = 32;
/// Operations that operators have asked for, waiting or under way.
pub const ARCHIVE_OPERATIONS: usize = 8;
/// Chunks that are brought back at once.
pub const ARCHIVE_RESTORES: usize = 4;
/// Chunks of an operation whose failures its report tells.
pub const ARCHIVE_FAILED_SHOWN: usize = 16;
/// Objects that cannot be deleted, after which the others of a slot wait for the next time.
pub const LEFTOVERS_FAILURES: u32 = 3;
/// Time after which an object of another bucket than that of the config is tried again.
pub const LEFTOVERS_ELSEWHERE: Duration = Duration::from_hours(1);
/// Blocks that one core's responses hold of blobs whose chunks are archived.
pub const ARCHIVE_BLOCKS_HELD: usize = 64 << 20;
/// Bytes from the archive that one core's reads hold on their way to their blocks.
pub const ARCHIVE_READS_HELD: usize = 64 << 20;
/// Reads of a core that ask a store which fails; more are refused at once.
pub const ARCHIVE_READS_FAILING: usize = 8;
/// Lost objects that are known.
pub const ARCHIVE_LOST_MAX: usize = 1024;
/// Bytes of an archived chunk that one response asks for ahead of what it sends.
pub const READ_AHEAD_AWAY: u64 = 16 << 20;
/// Reads of an archived chunk within [`ARCHIVE_HOT_TIME`] that have it brought back.
pub const ARCHIVE_HOT: u32 = 3;
/// See above.
pub const ARCHIVE_HOT_TIME: Duration = Duration::from_hours(1);
/// Archived chunks whose reads one core counts.
pub const ARCHIVE_HEAT_CHUNKS: usize = 4096;
/// Percent of a disk in use from which on reads bring nothing back.
pub const ARCHIVE_HEAT_DISK: u64 = 75;
/// Objects without a row that are asked for at a time.
pub const LEFTOVERS_PAGE: usize = 256;
/// Pause before objects that could not be deleted are tried again.
pub const LEFTOVERS_PAUSE: Duration = Duration::from_mins(1);
/// Archive rows that replicas are told of at a time, and objects that they condemn.
pub const SPREAD_ROWS: usize = 64;
/// How exactly times of reading are kept, at least and at most, and how often they are written down.
pub const READS_STEP_MIN: Duration = Duration::from_secs(1);
/// See [`READS_STEP_MIN`].
pub const READS_STEP_MAX: Duration = Duration::from_hours(1);
/// Time after which they are written down at the latest.
pub const READS_PAUSE: Duration = Duration::from_mins(10);
/// Versions whose times of reading one core remembers.
pub const READS_NOTED: usize = 16384;
/// Versions that are looked at in a second by who looks for those that were not read for long.
pub const PICK_RATE: u32 = 1000;
/// Versions that it reads at a time.
pub const PICK_PAGE: usize = 64;
/// Slots that are tried at random for two versions, before all are looked through.
pub const PICK_TRIES: usize = 16;
/// Time after which another replica is the one that stores what was not read for long, at least.
pub const PICK_TURN_MIN: Duration = Duration::from_secs(20);
/// Time for which a version that could not be archived is left alone.
pub const PICK_PAUSE: Duration = Duration::from_mins(10);
/// Such versions that are remembered.
pub const PICK_REMEMBERED: usize = 4096;
/// How often a disk is looked at for its watermark, and how often while it is above that.
pub const PRESSURE_TICK: Duration = Duration::from_millis(500);
/// See [`PRESSURE_TICK`].
pub const PRESSURE_TICK_HIGH: Duration = Duration::from_millis(50);
/// Time that an upload waits at a chunk for room below the watermark.
pub const PRESSURE_WAIT: Duration = Duration::from_secs(30);
/// Time without a file that went after which nobody waits any more.
pub const PRESSURE_PATIENCE: Duration = Duration::from_secs(10);
/// Points that the low watermark is below the high one, unless it is said.
pub const WATERMARK_GAP: u64 = 10;
/// Time that other replicas have for bytes of a chunk that is archived here, before the store is asked.
pub const ELSEWHERE_TIME: Duration = Duration::from_secs(2);
/// Time for which they are not asked again about a blob of which none had a file.
pub const ELSEWHERE_PAUSE: Duration = Duration::from_mins(1);
/// Such blobs that one core remembers.
pub const ELSEWHERE_BLOBS: usize = 1024;
/// Pages of the versions of one object that are deleted.
pub const ARCHIVE_VERSION_PAGES: usize = 16;
/// Bytes of an object that holds several chunks, at most: it is in memory on its way.
pub const PACK_BYTES: u64 = 16 << 20;
/// Chunks in it, at most.
pub const PACK_CHUNKS: usize = 256;
/// Of a pack that fewer than so many percent of its bytes are needed of, these are stored anew.
pub const PACK_NEEDED: u64 = 50;
/// Time after which a pack that stays as it is may be looked at again.
pub const REWRITE_PAUSE: Duration = Duration::from_mins(10);
/// Such packs that are remembered.
pub const REWRITE_REMEMBERED: usize = 4096;
/// Time after which another replica is the one that does it.
pub const REWRITE_TURN: Duration = Duration::from_hours(1);
/// What one core has other nodes asked for the archive, at a time.
pub const ARCHIVE_ERRANDS: usize = 64;
/// Time that another node has to do its part of an order; it goes on with it after that.
pub const ARCHIVE_ORDER_TIME: Duration = Duration::from_hours(1);
/// Bytes of an object's place.
pub const ARCHIVE_TARGET_MAX: usize = 1200;
/// Pause before replicas are asked again to condemn an object that one of them names still.
pub const CONDEMN_PAUSE: Duration = Duration::from_secs(10);
/// Pause before rows that not all replicas hold are pushed again.
pub const SPREAD_PAUSE: Duration = Duration::from_secs(30);
/// Time that replicas have to say what they hold of rows, or that they condemn objects.
pub const ARCHIVE_SPREAD_TIME: Duration = Duration::from_secs(5);
/// Archive rows that an inventory reads at a time.
pub const INVENTORY_PAGE: usize = 1024;
/// Archive rows of one slot, at most, that an inventory compares with the store: it has them in memory.
pub const INVENTORY_ROWS: usize = 1 << 20;
/// Age below which an object that no row names is none to report: a row may be about to.
pub const INVENTORY_YOUNG: Duration = Duration::from_hours(1);

const _: () = {
    assert!(
        HANDOVER_ROWS * (PATH_MAX + STORED_HEADERS_MAX * 2 + 256) < PEER_MESSAGE_MAX,
        "the versions handed over at a time fit a message"
    );
    assert!(
        SYNC_ROWS * (PATH_MAX + STORED_HEADERS_MAX * 2 + 256) < PEER_MESSAGE_MAX
            && SYNC_ITEMS * 64 < PEER_MESSAGE_MAX
            && SYNC_CHUNKS * 32 < PEER_MESSAGE_MAX
            && SLOTS as usize * 32 < PEER_MESSAGE_MAX,
        "what replicas tell each other at a time fits a message"
    );
    assert!(
        SYNC_LEAF < SYNC_ITEMS,
        "a range that is not cut any more is one answer where the rows are the same"
    );
    assert!(CHUNK_SIZE.is_multiple_of(PART_SIZE), "a part belongs to one chunk");
    assert!(PART_SIZE.is_multiple_of(GRANULE_SIZE), "a granule belongs to one part");
    assert!(RESCUES_HELD as u64 >= 8 * PART_SIZE, "several reads go on over damage at once");
    assert!(SCRUB_BUFFER.is_multiple_of(DIRECT_ALIGN), "the scrub reads whole blocks");
    assert!(
        PART_SIZE.is_multiple_of(SMALL_BLOCK) && SMALL_BLOCK.is_multiple_of(GRANULE_SIZE),
        "small blocks cut a part"
    );
    assert!(PART_SIZE / GRANULE_SIZE <= 128, "the granules of a block are the bits of a u128");
    assert!((EXTENT_SIZE as u64).is_multiple_of(PART_SIZE), "an extent is cut into parts");
    assert!(FORWARD_READ_TIME.as_secs() > READ_TIME.as_secs(), "another node has the time to ask a quorum");
    assert!(
        FORWARD_TIME.as_secs() > WRITE_TIME.as_secs() + PREPARE_TIME.as_secs() + COMMIT_TIME.as_secs(),
        "a write ends before who passed it on gives it up"
    );
    assert!(SEND_MAX as u64 >= READ_AHEAD_MIN, "who sends large pieces reads ahead");
    assert!(READ_AHEAD_MAX <= BLOCKS_HELD as u64 / 8, "some responses can read ahead at once");
    assert!(PAGE_MAX * ENTRY_SIZE <= PAGES_HELD, "the largest page can be held");
    assert!(
        PAGES_HELD / 4 / ENTRY_SIZE / NODES_MAX * LIST_ROUNDS >= PAGE_MAX,
        "pages of the largest cluster fill the largest page"
    );
    assert!(PAGE_MAX * ENTRY_SIZE * 2 <= PEER_MESSAGE_MAX, "a node's page is a message");
    assert!(BLOCKS_HELD as u64 >= 64 * PART_SIZE, "many clients can be served at once");
    assert!(BULK_CHAIN < BULK_ENTRIES as usize, "a chain is handed over at once");
    // An entry is 64 bytes; of completions, 16 bytes each, there are two to an entry, or a number of their own.
    assert!(
        (RING_ENTRIES as u64 * 100 + BULK_ENTRIES as u64 * 68 + BULK_COMPLETIONS as u64 * 16) <= RING_MEMORY,
        "the rings are charged no more"
    );
    assert!(ZERO_COPY_HELD < BLOCKS_HELD, "who does not acknowledge leaves blocks to the others");
    assert!((COMMIT_BATCH * RECORD_MAX + DIRECT_ALIGN) as u64 <= JOURNAL_SEGMENT, "a batch fits a segment");
    assert!(INLINE_MAX as usize * 2 <= RECORD_MAX, "a blob that lives in the database fits a record");
    assert!(TLS_SEAL_MAX + 9 * TLS_RECORD_EXTRA <= TLS_BUFFER, "what is sealed at a time fits a buffer");
    assert!(TLS_CONNECTIONS * 4 * TLS_BUFFER <= 1 << 30, "peers that are all busy take no more than a GiB");
    assert!(TLS_BUFFER >= 4 * (16 << 10) + TLS_RECORD_EXTRA, "a buffer holds whole records");
    assert!(PAGE_MAX < LISTING_STEPS, "the largest page is looked at in one go");
    assert!(GRANULE_SIZE.is_multiple_of(DIRECT_ALIGN as u64), "a granule can be read by itself");
    assert!(BUFFER_MIN as u64 >= INLINE_MAX, "a chunk that lives in the database fits the first buffer");
    assert!((BUFFER_MIN as u64).is_multiple_of(GRANULE_SIZE), "a buffer ends on a granule");
    assert!(PART_SIZE / GRANULE_SIZE * 4 <= 4096, "a row of checksums is at most 4 KiB");
    assert!(CHUNK_SIZE.is_multiple_of(BUFFER_MAX as u64), "a whole chunk is filled by whole buffers");
    assert!(STORED_HEADERS_MAX < HEADERS_MAX, "what is stored came in a header section");
    assert!(
        READ_AHEAD_AWAY * 4 <= ARCHIVE_BLOCKS_HELD as u64,
        "several reads of archived chunks go ahead at once"
    );
    assert!(
        ARCHIVE_READS_HELD >= ARCHIVE_BLOCKS_HELD,
        "who has a block for what it reads need not wait again"
    );
    assert!(
        ARCHIVE_HEAD_TIME.as_secs() + ARCHIVE_IDLE_TIME.as_secs() < ARCHIVE_READ_TIME.as_secs(),
        "a read can try again"
    );
    assert!(PREFIX_MAX + 64 <= 1024, "a key has the length that stores take");
    assert!(BLOB_MAX / CHUNK_SIZE * 32 <= 16 << 20, "the chunk ids of the largest blob fit 16 MiB");
};
