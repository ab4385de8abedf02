package doctor

import (
	"net/netip"
	"time"
)

// Facts is what is known of a node and its cluster at one time.
type Facts struct {
	Node     string
	Hostname string
	Now      time.Time // the cluster's time

	// Of the cluster, as the node sees it.
	Members   Fact[Members]
	Clock     Fact[Clock]
	Diverged  Fact[string] // how the node's state differs from the others'; empty: it does not
	Upgrade   Fact[Upgrade]
	Rotation  Fact[string] // why a change of the CA does not go on; empty: none is held up
	FromCheck Fact[string] // the setting; empty: none was made

	// Of the node's machine.
	Disk      Fact[Disk]
	Syncs     Fact[Syncs]
	Filling   Fact[Filling]
	OpenFiles Fact[uint64] // limit of the process
	TimeZone  Fact[string] // what is wrong with the zone that the process is given; empty: nothing

	// Of mail.
	History   Fact[History]
	Queue     Fact[Queue]
	Growth    Fact[Growth]
	Replies   Fact[Replies]
	Locks     Fact[[]Lock]
	Mailboxes Fact[[]Mailbox] // that are over nine tenths of a quota

	Certificates Fact[[]Certificate]
	Access       Fact[Access]

	// Of names, asked in DNS.
	DNS     Fact[DNS]
	Names   Fact[Names]
	Domains Fact[[]Domain]
	More    int // local domains that were not asked about, beyond the first

	Postmasters Fact[[]string] // local domains without a postmaster
	Logins      Fact[[]Login]  // of routes, that hosts refused to this node last
	Outward     Fact[[]Reach]
}

// States of a node.
const (
	Alive    = "alive"
	Silent   = "silent"
	Dead     = "dead"
	Draining = "draining"
	Drained  = "drained"
	Joining  = "joining"
)

// Members are the nodes of the cluster.
type Members struct {
	Leader   string // empty: none is known
	Voters   int
	UpVoters int // voters that answer
	Nodes    []Member
}

// Member is one node.
type Member struct {
	ID        string
	State     string
	Live      bool          // it has a session
	Silent    time.Duration // since it was heard of
	NotReady  string        // why it takes no traffic, in its own words; empty: it does
	Lag       uint64        // entries behind the leader
	Offset    time.Duration // of its wall clock
	Version   string
	DrainedAt time.Time // of the order; zero: it is not drained
	DiskFree  uint64
	DiskTotal uint64 // 0: not known
	Full      bool   // it refuses new mail for want of room
}

// Clock is how the cluster's time stands.
type Clock struct {
	Agreement bool          // of a majority of the clocks
	Up        time.Duration // since this node's start
	Jumps     int64
}

// Upgrade is how the cluster version stands.
type Upgrade struct {
	Words string   // what is coming; empty: nothing
	Held  bool     // by an operator
	Down  []string // nodes that hold it up by being down
}

// Disk is where the data is.
type Disk struct {
	Free, Total uint64
	Mark        uint64 // below it new mail is refused
	Full        bool   // mail is refused
}

// Syncs are the writes to the log.
type Syncs struct {
	Count uint64
	Mean  time.Duration
	Over  time.Duration // since when they were counted
}

// Filling is how fast the disk fills.
type Filling struct {
	Rate float64 // octets a second; 0 or less: it does not
	Over time.Duration
}

// History is what is kept of finished messages.
type History struct {
	Bytes, Bound uint64
	Keep         time.Duration // that it should last
	Span         time.Duration // since the oldest message that it has was finished
	Rate         float64       // octets a second that come in; 0: not measured
	Over         time.Duration
}

// Queue is what waits for remote delivery.
type Queue struct {
	Recipients uint64
	Unowned    uint64
	Oldest     time.Time // of what may be tried; zero: none
	OldestID   string
	Held       uint64
	OldestHeld time.Time // zero: none
	HeldID     string
	Partial    bool // the queue is so long that not all of it was read
	Refusing   []Destination
}

// Destination is one that refuses all there is for it.
type Destination struct {
	Domain    string
	Waiting   uint64
	Attempts  uint32 // the most of a recipient
	Oldest    time.Time
	LastReply string
}

// Replies are what hosts said no with to this node lately, of the classes that it can do something about.
type Replies struct {
	Over    time.Duration
	Classes []ReplyClass
}

// ReplyClass is how often attempts failed for one cause.
type ReplyClass struct {
	Name   string
	Count  uint64
	Advice string // half a sentence
}

// Login is one of a route that a host refused.
type Login struct {
	Route, User, Host, Reply string
	At                       time.Time
}

// Growth is how the queue's length changed.
type Growth struct {
	Before, Now uint64 // recipients
	Over        time.Duration
}

// Lock is a mailbox lock.
type Lock struct {
	User, Node, Remote string
	Since              time.Time
}

// Mailbox is one that nears a quota.
type Mailbox struct {
	User            string
	Bytes, Quota    uint64
	Messages, Limit uint64
}

// Full reports whether nothing more goes in.
func (m Mailbox) Full() bool {
	return m.Quota > 0 && m.Bytes >= m.Quota || m.Limit > 0 && m.Messages >= m.Limit
}

// Kinds of certificates.
const (
	OfNode = "node" // on the cluster port; renews itself
	OfCA   = "ca"   // of the cluster
	OfFile = "file" // a file of [tls]: listeners and admin
	OfACME = "acme" // renews itself
)

// Certificate is one that is in use.
type Certificate struct {
	Kind     string
	Name     string
	Ends     time.Time
	SelfMade bool // signed by itself
}

// Access is who may do what, by this node's configuration.
type Access struct {
	Everybody     []netip.Prefix // trusted networks so large that strangers are in them
	AnyProxy      []string       // keys of the configuration that let everybody speak for others
	Admin         string         // address of the admin listener
	AdminLocal    bool           // it is on loopback
	AdminTLS      bool
	AdminToken    bool
	Anonymous     bool     // clients of this machine need no token
	Public        []string // listeners off loopback that offer TLS
	PlainLogins   []string // listeners off loopback that offer no TLS
	AuthservID    string   // as configured; empty: the hostname
	LocalDomains  []string // that AuthservID may be of
	NodeHostnames []string
}

// DNS is what the node's resolver does.
type DNS struct {
	Failure   string   // why it does not answer; empty: it does
	Validates bool     // it says of a signed name that it was checked
	Believed  bool     // such a word of it counts: it is on loopback, or in [delivery] trust_ad
	DANE      []string // domains of routes that want DANE
	ByMX      bool     // mail leaves by MX look-up, at least some
}

// Names is what DNS says of the hostname.
type Names struct {
	Addresses Fact[[]netip.Addr]
	Reverse   []Reverse
}

// Reverse is the names of one address.
type Reverse struct {
	Address netip.Addr
	Names   Fact[[]string]
}

// Domain is what DNS says of a local domain.
type Domain struct {
	Name  string
	MX    Fact[[]MX]
	SPF   Fact[SPF]
	DKIM  Fact[[]Key]
	DMARC Fact[string] // the record that counts; empty: none
}

// MX is one mail host of a domain.
type MX struct {
	Host string
	Ours bool
}

// SPF is a domain's policy of senders.
type SPF struct {
	Record  string            // empty: none
	Refused map[string]string // address of ours → outcome, where that is not a pass
	Passed  int               // addresses of ours that may send
}

// Key is a signing key.
type Key struct {
	Name      string // of its record
	Domain    string
	Selector  string
	Waiting   bool // it does not sign before its record is there
	Retired   bool
	Published bool // DNS has its public key
	Other     bool // DNS has another key in its place
}

// Reach is whether a mail host could be reached.
type Reach struct {
	Host  string
	Error string // empty: it could
}
