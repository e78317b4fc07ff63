"""The numbers that bound something, with the relations between them checked at import.

Not here are shares of these that only one module has a use for (admission.py, storage.py), and the sizes of what
wire.pyx and the simulator hold.

Sizes are bytes, times nanoseconds unless the name says otherwise. A leaf: imports only `invariants`.
"""

from typing import Final

from quorumd.invariants import invariant

KIB: Final = 1024
MIB: Final = 1024 * KIB
MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000

# Client data
MAX_KEY_BYTES: Final = 32 * KIB
MAX_VALUE_BYTES: Final = 1 * MIB
MAX_ENTRY_BYTES: Final = 1536 * KIB  # etcd's default request limit
MAX_TXN_OPS: Final = 128  # in one list of a transaction; etcd's default
MAX_TXN_DEPTH: Final = 8  # transactions in each other
MAX_TXN_TOTAL: Final = 1024  # operations and compares of a transaction and all within it
MAX_LOOKS: Final = 100_000  # keys that the ranges of a transaction walk over, beside the longest walk
RULES_VERSION: Final = 3  # of what decides what a command does: limits here and in the fast path; raised if one changes
RANGE_PAGE_BYTES: Final = 1 * MIB
DEFAULT_QUOTA_BYTES: Final = 2 * 1024 * MIB

# History
DEFAULT_RETAIN_REVISIONS: Final = 100_000
RETAIN_SAMPLES: Final = 256  # of (time, revision), by which history is kept for a time
COMPACT_EVERY: Final = 100 * MILLISECOND  # at most, so that compaction costs the log next to nothing
COMPACT_STEP: Final = 16  # at least a 16th of what is retained goes at once
RECLAIMED_AT_ONCE: Final = 50_000  # by an entry of the leader's own, in units of 20 ns (store.h): a millisecond

# Leases
MAX_LEASES: Final = 100_000
MIN_LEASE_TTL_MS: Final = 1000  # a shorter one is raised to it: several times what a fail-over takes
MAX_LEASE_TTL_MS: Final = 366 * 24 * 3600 * 1000
EXPIRE_MORE_EVERY: Final = 100 * MILLISECOND  # while more sessions are due than are looked for at once
EXPIRE_AGAIN: Final = 1 * SECOND  # an expiry that could not be proposed is tried again
EXPIRE_SESSIONS_EVERY: Final = 1 * SECOND

# Sessions
SESSION_WINDOW_OPS: Final = 1024
SESSION_WINDOW_BYTES: Final = 1 * MIB
ALL_SESSIONS_BYTES: Final = 256 * MIB  # answers that all windows keep: above it the oldest of all go first
ALL_SESSIONS_OPS: Final = 4 * 1024 * 1024  # slots of all windows: above it no window grows beyond a few
MAX_SESSIONS: Final = 100_000
SESSION_TTL: Final = 30 * SECOND

# Datagrams
HEADER_BYTES: Final = 80
ENTRY_HEADER_BYTES: Final = 40
REPLY_HEADER_BYTES: Final = 32
MAC_BYTES: Final = 16
LOOPBACK_MTU: Final = 65_000
NETWORK_MTU: Final = 1_400
MIN_MTU: Final = 576
SLAB_SLOTS: Final = 256
SLAB_SLOT_BYTES: Final = 64 * KIB
SOCKET_BUFFER_BYTES: Final = 16 * MIB
OUTBOX_DATAGRAMS: Final = 4096
OUTBOX_SCRATCH_BYTES: Final = 8 * MIB
REPLY_SCRATCH_BYTES: Final = 16 * MIB

# Fragments
FRAGMENT_WINDOW: Final = 64  # unacknowledged fragments in flight to one peer
FRAGMENT_SPAN: Final = 256  # of messages under way to one destination; what an anti-replay window tells apart
FRAGMENT_RTO: Final = 20 * MILLISECOND
FRAGMENT_DEADLINE: Final = 5 * SECOND  # a message not reassembled or not acknowledged by then is given up
REASSEMBLY_BYTES: Final = 64 * MIB  # all senders together
REASSEMBLY_MESSAGES: Final = 1024
FRAGMENT_QUEUE_MESSAGES: Final = 1024  # waiting for one destination: a leader's window, and what it sends again
FRAGMENT_QUEUE_BYTES: Final = 64 * MIB  # waiting for all destinations together
MAX_ANSWER_BYTES: Final = 8 * KIB  # of a hello, status or admin reply that leaves in fragments
ANSWERS_BYTES: Final = 1 * MIB  # of such, put together by one client

# The node
MAX_STAGED_OPS: Final = 65_536  # client operations taken in one turn
MAX_PENDING_OPS: Final = 65_536  # operations proposed and not yet answered
READ_QUEUE_BYTES: Final = 64 * MIB
APPLY_ENTRIES_PER_TURN: Final = 16_384
# Looks at keys, or as much else (Store.work), after which a turn applies no further entry, and answers no further read.
# Some 5 ms each: heartbeats leave in time, and what a turn costs by itself is not felt.
TURN_WORK: Final = 200_000
READ_WAIT: Final = 1 * SECOND  # for other reads that came before; its client has asked again long before
MAX_EXPIRIES_PER_TURN: Final = 1024
RING_BYTES: Final = 64 * MIB
RING_ENTRIES: Final = 1 << 20
READ_BACK_BYTES: Final = 4 * MIB
READ_BACK_RECORDS: Final = 1024  # of one: to check and cut them takes some 5 us each
READ_BACKS: Final = 14  # at once; the queue of the thread that does them, 16, has room for a segment to be made
DIGEST_EVERY: Final = 1024
REORDER_WINDOW_MESSAGES: Final = 256  # what a leader has under way: small ones overtake those that go in fragments
REORDER_WINDOW_BYTES: Final = 4 * MIB
ISLAND_BYTES: Final = 16 * MIB  # of accepted slots that wait in memory behind a hole (Multi-Paxos)
ISLAND_ENTRIES: Final = 65_536  # likewise
MAX_MEMBERS: Final = 9
PEER_LOOK_UP_AFTER: Final = 3 * SECOND  # the name of a peer silent for longer is looked up again
PEER_LOOK_UP_EVERY: Final = 2 * SECOND  # while it is
PEER_NAME_SAID_EVERY: Final = 30 * SECOND  # at most, of one peer
ADMIN_REMEMBERED: Final = 64  # commands carried out, whose copies are told from new ones

# Watches
WATCH_STREAMS: Final = 4096  # of one node
WATCHERS: Final = 65_536  # of one node
WATCHER_BYTES: Final = 64 * MIB  # of their keys and ends, each held twice
WATCH_WINDOW_BYTES: Final = 1 * MIB  # put in one stream and not acknowledged
WATCH_WINDOW_BATCHES: Final = 256  # sent in one stream and not acknowledged
WATCH_UNPROVEN_BYTES: Final = 2 * KIB  # put in one that never acknowledged anything: answers, no events
WATCH_TOTAL_BYTES: Final = 256 * MIB  # put in all streams and not acknowledged, but for a small part of each (watch.h)
WATCH_PIECE_BYTES: Final = 256 * KIB  # of events in one item
WATCH_FRAGMENT_BYTES: Final = FRAGMENT_QUEUE_BYTES // 2  # waiting in fragments; above it, large batches wait
WATCH_TURN_COST: Final = 16_384  # of changes, searches, events and their half KiB in a turn; likewise for those behind
# Turns for which a node applies nothing after a compaction, while watchers that lack what it gave up can be given it:
# 128 MiB of events, or a quarter of a million small ones, so four for each of as many watchers as there may be. Each
# takes some milliseconds, so all together less than an election timeout: who waits for an answer does not give up.
WATCH_HELD_TURNS: Final = 16
WATCH_SENT_PER_TURN: Final = 4 * MIB  # of batches; the other streams have their turn in the next one
WATCH_BATCH_COST: Final = 4 * KIB  # what a batch costs of that beside its bytes: a thousand of them take milliseconds
WATCH_RETRY: Final = 40 * MILLISECOND  # what is not acknowledged is repeated after this, then ever more slowly
WATCH_MAX_RETRY: Final = 1 * SECOND
WATCH_RESENT_AT_ONCE: Final = 32  # batches of one stream
WATCH_SILENCE: Final = 20 * SECOND  # a stream whose client says nothing, or takes nothing, for so long is dropped

# Numbers that a peer names. Without a cluster key anybody on the path can name any: nothing computed from one may leave
# a u64, and no frame may bring the terms near their end, or elections would stop for good.
MAX_NUMBER: Final = 1 << 62  # terms, indexes, rounds
MAX_TERM_STEP: Final = 1 << 32  # above the newest term known here; ten elections a second for thirteen years

# The log on disk
SEGMENT_BYTES: Final = 64 * MIB
MIN_SEGMENT_BYTES: Final = 4 * MIB
SECTOR_BYTES: Final = 512
WAL_QUEUE_BYTES: Final = 32 * MIB  # handed to the disk and not yet durable; above it, appends wait
WAL_QUEUE_BATCHES: Final = 2048  # likewise; the sync thread takes twice as many, for hard states
IDLE_SYNC: Final = 50 * MILLISECOND  # an idle node syncs an empty batch this long after its last one
PREPARE_RETRY: Final = 1 * SECOND
CREATE_DEADLINE: Final = 60 * SECOND  # for a segment that the node cannot do without
CREATE_PER_MIB: Final = SECOND // 4  # likewise, and this for each MiB of it
OPEN_SEGMENTS: Final = 32  # file descriptors of the log; more only while all of them are in use
FREE_BATCHES: Final = 4

# Consensus
MAX_APPEND_BYTES: Final = 1 * MIB  # one AppendEntries run
DEFAULT_INFLIGHT_BYTES: Final = 4 * MIB
MAX_INFLIGHT_MESSAGES: Final = 256

# Multi-Paxos
PROMISE_RUNS: Final = 48  # in one part of a promise, which so fits a datagram of 1,400 bytes
OPEN_SLOTS: Final = RING_ENTRIES + ISLAND_ENTRIES  # that can be accepted behind what is chosen: they are in memory
OPEN_RUNS: Final = 1024  # of accepted slots above an acceptor's watermark; what would make more is not accepted
ACCEPTED_RANGES: Final = 32  # behind holes, in one Accepted
REMEMBERED_RANGES: Final = 128  # behind holes: known to be chosen, or acknowledged by one acceptor
ADOPT_REQUESTS: Final = 16  # fetches of a new leader under way at once
MAX_FETCHES: Final = 64  # questions of others answered in one turn; more are lost
MAX_ON_WAY: Final = 256  # large values under way to one node that asked for them
RESEND_MESSAGES: Final = 16  # in one retransmission

# The supervisor (seconds)
LEADER_DEADLINE_S: Final = 60.0  # from the first spawn to a leader that serves
STOP_DEADLINE_S: Final = 10.0  # from SIGTERM to SIGKILL
REFRESH_S: Final = 1.0  # of the live table
STARTING_POLL_S: Final = 0.05  # between questions to the nodes while there is no leader yet
FIGURES_FRESH_S: Final = 2.5  # a node that answered nothing for longer is shown without figures
STEADY_LIFE_S: Final = 1.0  # a node that ran this long before it ended is restarted after the shortest wait
EARLIER_RUN_DEADLINE_S: Final = 5.0  # for the nodes of a killed supervisor to be gone

# Chaos
CHAOS_LIVENESS_S: Final = 15.0  # from the last heal of a round to a write that succeeds
CHAOS_WATCH_BATCHES: Final = 500_000  # that chaos's spectator remembers
CHAOS_EVENTS: Final = 3_000_000  # of a history: from then on no further round of faults begins
CHAOS_START_S: Final = 30.0  # from a start of all nodes to one state of all, whatever the machine has to do besides
CHAOS_KILL_S: Final = 20.0  # from kill -9 to the end of a process
CHAOS_CHECK_S: Final = 120.0  # for the checker; then the verdict is undecided
CHAOS_READ_S: Final = 30.0  # for one read once everything is healed
COMPILE_S: Final = 60.0  # for the preload library
RELAY_ANSWER_S: Final = 20.0  # for the relay to start, or to answer
RELAY_BATCH: Final = 64  # datagrams taken from one socket before the others have their turn
RELAY_HELD_DATAGRAMS: Final = 20_000  # on their way; one more is lost
RELAY_CLIENTS: Final = 1024  # behind one lane; datagrams of further ones are lost

# Files that people write
MAX_CONFIG_BYTES: Final = 1 * MIB
MAX_CONFIG_VALUES: Final = 10_000  # aliases multiply: a file of a few lines could otherwise unfold into gigabytes
MIN_CLUSTER_KEY_BYTES: Final = 32
MAX_KEY_FILE_BYTES: Final = 4 * KIB

# The command line
COMMAND_SECONDS: Final = 7 * 24 * 3600  # of any time that a command is given; what waits can hold far longer ones

# Loads that are measured
LOAD_ERRORS_SHARE: Final = 0.01  # operations that may be refused: the figures are of the others

# Comparisons
COMPARE_SEGMENT_MIB: Final = 16  # at most: making the files of up to two dozen nodes must not fill the disk's queue
COMPARE_REPLY_S: Final = 2.0  # for nodes to answer a STATUS, on a machine under full load
COMPARE_SETTLE_S: Final = 30.0  # from a start to one leader that all follow
COMPARE_POLL_S: Final = 0.02
COMPARE_SESSION_TTL_MS: Final = 86_400_000  # its clients send no sign of life while others have their turns
COMPARE_WARM_UP_S: Final = 0.2  # of every round, not counted
COMPARE_DRAIN_S: Final = 5.0  # for what is in flight at a round's end
COMPARE_FAILOVER_S: Final = 15.0  # from a leader's kill to the next write; then there was none
COMPARE_FAILOVER_RESEND_MS: Final = 10  # of what is unanswered in that time: the step in which it is measured
COMPARE_WITHOUT_S: Final = 2.0  # likewise when too many nodes may be down, at least; twenty election timeouts if longer

# The client library
CLIENT_LIVES: Final = 64  # nodes whose lives a client remembers
CLIENT_WINDOWS: Final = 65_536  # clients whose copied datagrams a node can tell; one with large requests is two
CLIENT_DATAGRAM_LIFE: Final = 60 * SECOND  # no copy of a datagram is older
CLIENT_FIRST_RETRY: Final = 40 * MILLISECOND  # an unanswered request is repeated after this, then ever more slowly
CLIENT_MAX_RETRY: Final = 200 * MILLISECOND
CLIENT_FRAGMENTED_RETRY: Final = 500 * MILLISECOND  # likewise if it left in fragments, which have timers of their own
CLIENT_REFUSED_RETRY: Final = 20 * MILLISECOND  # a refused request is repeated after this, then ever more slowly
CLIENT_SEARCH: Final = 20 * MILLISECOND  # between questions to all nodes while no leader is known
CLIENT_SEARCH_EARLY: Final = 30 * MILLISECOND  # ... but no more slowly than this while an election may just be ending
CLIENT_SEARCH_MAX: Final = 200 * MILLISECOND
CLIENT_SEARCH_IDLE: Final = 1 * SECOND  # likewise while nothing waits for an answer
CLIENT_LOOK_UP_AGAIN: Final = 2 * SECOND  # names are resolved anew after a search of this long
CLIENT_REDIRECTS: Final = 4  # hints followed at once without an answer in between; then a pause
CLIENT_SUSPENDED_AFTER: Final = 500 * MILLISECOND  # without a leader
CLIENT_QUEUE_OPS: Final = 65_536  # waiting in one client, or for the callbacks of its futures; above it, Overloaded
CLIENT_READS_IN_FLIGHT: Final = 1024
CLIENT_STALE_IN_FLIGHT: Final = 1024  # those that wait for a revision to come must not hold up the other reads
CLIENT_WRITE_BYTES_IN_FLIGHT: Final = 8 * MIB
CLIENT_OPEN_DEADLINE: Final = 10 * SECOND
CLIENT_CLOSE_DEADLINE: Final = 200 * MILLISECOND
CLIENT_TIMEOUT_S: Final = 5.0

CLIENT_WATCH_REQUESTS: Final = 64  # of one stream, sent and not acknowledged
CLIENT_WATCH_PING: Final = 2 * SECOND  # a node from which nothing came for so long is asked whether it is there
CLIENT_WATCH_SILENCE: Final = 1 * SECOND  # one that is asked, and says nothing, is left for another
CLIENT_WATCH_LEADERLESS: Final = 1 * SECOND  # likewise one that knows no leader for so long
CLIENT_WATCH_PAUSE: Final = 100 * MILLISECOND  # between nodes, once all of them were left
CLIENT_WATCH_PROGRESS: Final = 10 * SECOND  # between questions how far idle watchers have got
CLIENT_WATCH_BYTES: Final = 4 * MIB  # of events that wait for the user of one watcher; then it is paused
CLIENT_WATCH_BATCHES: Final = 4096  # likewise
CLIENT_WATCH_REVISION_BYTES: Final = 1024 * MIB  # of one revision's events, put together before they are given
CLIENT_WATCHERS: Final = 65_536

# Recipes
RECIPE_NAME_BYTES: Final = 4 * KIB  # of a lock, queue, ...; three times that once it is escaped
SESSION_TTL_S: Final = 10.0  # of a recipes session's lease, unless it is given another
SESSION_KEEP_ALIVES: Final = 3  # keep-alives within one TTL
SESSION_MARGIN_PARTS: Final = 10  # a lease counts as lost this part of its TTL before the cluster could end it
SESSION_ATTEMPT: Final = 1 * SECOND  # for one keep-alive or batch of errands; closing a session may have to wait for it
SESSION_GLANCE: Final = 1 * SECOND  # a script that waits looks at its session at least so often
SESSION_RETRY: Final = 50 * MILLISECOND  # after an attempt that failed, and that the client had repeated already
SESSION_OPEN_S: Final = 10.0
SESSION_CLOSE_S: Final = 1.0  # for the goodbye; a lease that could not be revoked ends by itself

# The checker
HISTORY_EVENTS: Final = 4_000_000  # of one history in memory
CHECK_CONFIGURATIONS: Final = 4_000_000  # visited by one search; above it, undecided
CHECK_SECONDS: Final = 60.0  # likewise

invariant(MAX_VALUE_BYTES + MAX_KEY_BYTES + 4 * KIB <= MAX_ENTRY_BYTES, "the largest put must fit an entry")
invariant(MAX_LEASES * 8 + 4 <= RANGE_PAGE_BYTES, "a reply lists all leases")
invariant(MAX_LEASE_TTL_MS * MILLISECOND < 1 << 62, "a deadline leaves room for sums")
invariant(3 * MAX_TXN_OPS <= MAX_TXN_TOTAL, "a transaction without others in it is bound by its lists alone")
invariant(MAX_ENTRY_BYTES + HEADER_BYTES + 4 * KIB <= MIN_SEGMENT_BYTES // 2, "any entry must fit half a segment")
invariant(MAX_NUMBER + MAX_TERM_STEP < 1 << 63, "a plausible number leaves room for sums")
invariant(LOOPBACK_MTU <= SLAB_SLOT_BYTES, "a datagram must fit a slab slot")
invariant(MAX_ENTRY_BYTES * 4 <= RING_BYTES, "the ring must hold several of the largest entries")
invariant(MAX_INFLIGHT_MESSAGES <= REORDER_WINDOW_MESSAGES, "all that is under way may wait for what it overtook")
invariant(2 * MAX_INFLIGHT_MESSAGES <= FRAGMENT_QUEUE_MESSAGES, "what is under way, and again, finds its place")
invariant(DEFAULT_INFLIGHT_BYTES <= REORDER_WINDOW_BYTES, "likewise in bytes")
invariant(MAX_ENTRY_BYTES * 4 <= ISLAND_BYTES, "several of the largest entries wait behind a hole")
invariant(MAX_ENTRY_BYTES * 4 <= REPLY_SCRATCH_BYTES, "several of the largest answers leave in one turn")
invariant(MAX_PENDING_OPS <= RING_ENTRIES, "every pending operation has its entry in the ring")
invariant(MAX_MEMBERS * 300 + KIB <= MAX_ANSWER_BYTES, "a hello reply with the longest host names leaves")
invariant(MAX_ANSWER_BYTES <= FRAGMENT_WINDOW * MIN_MTU // 2, "an answer's fragments leave together")
invariant(MAX_ENTRY_BYTES <= REASSEMBLY_BYTES // 8, "several of the largest messages reassemble at once")
invariant(WATCHERS * KIB <= WATCHER_BYTES, "as many watchers as there may be have names of half a KiB")
invariant(2 * WATCH_PIECE_BYTES <= WATCH_WINDOW_BYTES, "a window holds several pieces")
invariant(WATCH_PIECE_BYTES + KIB <= MAX_ENTRY_BYTES, "any item fits a message in fragments")
invariant(2 * WATCH_SENT_PER_TURN <= OUTBOX_SCRATCH_BYTES, "what a turn sends fits the outbox")
invariant(2 * WATCH_WINDOW_BYTES <= WATCH_TOTAL_BYTES, "one stream may fill its window, and as much is free then")
invariant(WATCH_STREAMS * WATCH_PIECE_BYTES // 8 <= WATCH_TOTAL_BYTES // 2, "what each stream may always hold is small")
invariant(24 * CLIENT_WATCH_REQUESTS <= WATCH_UNPROVEN_BYTES, "an honest client's first requests are answered at once")
invariant(CLIENT_WATCH_PING + CLIENT_WATCH_SILENCE < WATCH_SILENCE // 2, "a client that lives is heard of in time")
invariant(3 * RECIPE_NAME_BYTES + KIB <= MAX_KEY_BYTES, "an escaped name and what stands around it fit a key")
invariant(SESSION_KEEP_ALIVES >= 2 and SESSION_MARGIN_PARTS >= 4, "a lost keep-alive does not lose the lease")
