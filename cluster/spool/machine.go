package spool

import (
	"sync"
	"sync/atomic"

	pb "relay/cluster/spool/spoolpb"
)

// Machine applies commands to a store. One goroutine applies; views read the
// store beside it. What Apply reads at every command (clock, sessions, shards,
// counters) is cached here and is always rebuilt from the store by Load.
type Machine struct {
	mu sync.Mutex
	st state
}

// Load reads the machine's caches from a store, empty or not.
func Load(r Reader) (*Machine, error) {
	m := &Machine{}
	return m, m.st.load(r)
}

// Apply carries out one command. It is total: a refusal is a Result. An error
// means that the store failed or that the frame is of an unknown version; the
// caller must then stop the process, because this node can not go on.
//
// Writes go to b; the caller commits them together with the applied index,
// after Flush. Several commands may share a batch; results and state do not
// depend on where batches begin and end.
func (m *Machine) Apply(b Batch, index uint64, f Frame) (*pb.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st.apply(b, index, f)
}

// Flush writes the counters that changed since the last Flush into b. The
// caller calls it once for each batch, before it commits the batch.
func (m *Machine) Flush(b Batch) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st.flush(b)
}

// Changes returns what the commands since the last call have changed, for the
// node's own components. The caller calls it after a commit.
func (m *Machine) Changes() Changes {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.st.changes
	c.ClockMs = m.st.clock
	m.st.changes = Changes{}
	return c
}

// Changes tells the components of one node what a committed batch has
// changed. It is a hint to look, never the only source of truth.
type Changes struct {
	Queued    []Queued // new or rescheduled queue entries, of any owner
	Settled   []Queued // entries that left the queue
	Sessions  bool     // sessions, shards or locks changed hands
	Directory bool     // accounts, domains, aliases, routes or settings changed
	Routes    bool     // routes changed; Directory is set, too
	Rules     bool     // standing rules came or went
	Locks     []string // mailboxes whose lock was broken by an operator
	Broken    []uint64 // their tokens
	Voided    []uint64 // tokens of locks that ended with a node's session
	Taken     []Taken  // locks that sessions took
	Boxes     []string // mailboxes that got mail
	Clock     bool     // the clock of the state was set: it has jumped
	ClockMs   int64    // the clock of the state; always set
	Members   bool     // certificates of members, or the CA
	Version   uint32   // the cluster version, where it was set; 0: it was not
	Restored  bool     // a snapshot replaced everything: read it all again

	Suppressed bool // an address came on the suppression list

	Happened []Happening // while somebody watches, see Machine.Watch
}

// Happening is one line that a command added to a message's history, or to the audit log.
// Index and N are the same on every node and for ever.
type Happening struct {
	Index uint64    // of the command
	N     uint32    // among the lines of the command, from 1; 0: the line of the audit log
	ID    ID        // of the message
	Event *pb.Event // nil: Audit is set
	Audit *pb.Audit
}

// Watch has Changes list what happened while on is set. Without that a command pays one
// look at it for each line. It is called before the first Apply.
func (m *Machine) Watch(on *atomic.Bool) { m.st.watched = on }

// Taken is a mailbox's lock in the hands of a session.
type Taken struct {
	Mailbox string
	Node    string
	Epoch   uint64
	Token   uint64
	Session string
}

// Queued is one recipient in the queue.
type Queued struct {
	ID        ID
	Recipient uint32
	Owner     uint64 // epoch that owns it now; 0: nobody
	Domain    string
	Route     string
	NextMs    int64
	Attempts  uint32
	State     pb.State
	Priority  int32
	Size      uint64
	ExpiresMs int64 // its own end; 0: by the retry policy
}
