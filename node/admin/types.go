package admin

import (
	"slices"
	"time"
)

// By says who asks for a change and why. It goes into the audit log and, where
// the change touches messages, into their history.
type By struct {
	Who string // name of the token
	Why string // free text, may be empty
	// Request is a ULID that the client chose. A change that arrives twice
	// with the same Request is applied once and answered the same.
	Request string
}

// ---------------------------------------------------------------- cluster

// States of a node.
const (
	NodeAlive    = "alive"
	NodeSilent   = "silent"   // does not answer, and may still have work
	NodeDead     = "dead"     // does not answer, or has no session: others took over, or will when they can
	NodeDraining = "draining" // takes no new work, still hands over
	NodeDrained  = "drained"  // has neither clients nor work, and does not lead: safe to stop
	NodeJoining  = "joining"  // catching up, has no vote yet
)

// Roles of a node.
const (
	RoleLeader   = "leader"
	RoleFollower = "follower"
	RoleNonVoter = "non-voter"
	RoleNone     = "none" // not known, or outside
)

// Status is the cluster on one screen, as the answering node sees it.
type Status struct {
	Cluster  string      `json:"cluster" doc:"name of the cluster"`
	Healthy  bool        `json:"healthy" doc:"has a leader, all nodes alive and caught up"`
	Leader   string      `json:"leader" doc:"id of the leader, empty if there is none"`
	Term     uint64      `json:"term"`
	Nodes    []Node      `json:"nodes"`
	Queue    QueueTotals `json:"queue"`
	Node     string      `json:"node" doc:"id of the node that answers"`
	Problems []string    `json:"problems" doc:"what is wrong, in words; empty if healthy"`
	Advice   []string    `json:"advice" doc:"what would be better, in words, though the cluster is healthy"`

	ClusterVersion uint32 `json:"cluster_version" doc:"version of the replicated state"`
	Upgrade        string `json:"upgrade" doc:"what is coming of the cluster version, in words; empty: nothing"`

	Rotation string `json:"rotation" doc:"how far a rotation of the cluster's CA is, in words; empty: none is under way"`

	MayFail int `json:"may_fail" doc:"how many of the voting nodes that are up may fail while the cluster goes on"`

	HistorySpan  int64 `json:"history_span_seconds" doc:"since when the oldest message that the history has is finished; 0: it has none"`
	HistoryLasts int64 `json:"history_lasts_seconds" doc:"how long the history of a message lasts at the rate of what is there, at most as long as it is set; 0: not known yet"`

	FailoverSeconds float64 `json:"failover_seconds" doc:"after how long at most the others take over the work of a node that dies; longer on slow links and disks"`
}

// Node is one member.
type Node struct {
	ID            string `json:"id"`
	State         string `json:"state" enum:"alive,silent,dead,draining,drained,joining"`
	Role          string `json:"role" enum:"leader,follower,non-voter,none"`
	Applied       uint64 `json:"applied" doc:"index of the last applied log entry"`
	Lag           uint64 `json:"lag" doc:"entries behind the leader's commit index"`
	Owned         uint64 `json:"owned" doc:"queued recipients it is to deliver"`
	POP3Sessions  int    `json:"pop3_sessions"`
	SMTPSessions  int    `json:"smtp_sessions"`
	Version       string `json:"version"`
	Hostname      string `json:"hostname"`
	Address       string `json:"address" doc:"cluster address"`
	Admin         string `json:"admin" doc:"URL of its admin API"`
	DiskFree      uint64 `json:"disk_free" doc:"octets free where its data is; 0 if not known"`
	DiskTotal     uint64 `json:"disk_total"`
	UptimeSeconds int64  `json:"uptime_seconds"`
	LastSeen      Time   `json:"last_seen" doc:"when its session was last renewed"`

	ClockOffsetSeconds float64 `json:"clock_offset_seconds" doc:"how far its wall clock is ahead of the cluster's time, negative: behind; 0 where it has not said"`
	SilentSeconds      float64 `json:"silent_seconds" doc:"since when nothing was heard of it, as far as the answering node can tell; 0: it answers"`
	Drained            bool    `json:"drained" doc:"it is marked by a drain, and has neither clients nor work"`
}

// QueueTotals count what waits for remote delivery.
type QueueTotals struct {
	Messages   uint64 `json:"messages"`
	Recipients uint64 `json:"recipients"`
	Bytes      uint64 `json:"bytes"`
}

// TokenRequest asks for a join token.
type TokenRequest struct {
	Uses       int   `json:"uses" minimum:"1" maximum:"100" default:"1" required:"false" doc:"how many nodes may join with it"`
	TTLSeconds int64 `json:"ttl_seconds" minimum:"1" default:"3600" required:"false" doc:"how long it is valid"`
}

// Token is a join token; the secret is shown once.
type Token struct {
	Token   string `json:"token"`
	Expires Time   `json:"expires"`
	Uses    int    `json:"uses"`
	Address string `json:"address" doc:"cluster address to join at"`
}

// RotateOptions steer a change of the cluster's CA.
type RotateOptions struct {
	DryRun  bool     // only say what would happen
	Without []string // nodes that are removed first: they must join anew
}

// UpgradeOptions steer the cluster version. Without any, it is raised now.
type UpgradeOptions struct {
	DryRun  bool // only say what would happen
	Hold    bool // keep it where it is
	Release bool // let it rise again by itself
}

// NodeChange is what a step of membership does or would do.
type NodeChange struct {
	ID      string   `json:"id" doc:"the node concerned"`
	DryRun  bool     `json:"dry_run"`
	Effects []string `json:"effects" doc:"what it does, one sentence each"`
}

// DrainOptions steer a drain, or its end.
type DrainOptions struct {
	Off    bool          // take the node back
	DryRun bool          // only say what would happen
	Notice time.Duration // for how long new clients are still served, so that balancers can look away
}

// RemoveOptions steer the removal of a node.
type RemoveOptions struct {
	DryRun bool // only say what would happen
	Force  bool // even where quorum is lost
}

// Verification is the outcome of comparing all nodes at one index.
type Verification struct {
	OK       bool         `json:"ok"`
	Index    uint64       `json:"index" doc:"log index at which all were compared"`
	Nodes    []NodeHash   `json:"nodes"`
	Findings []string     `json:"findings" doc:"what is wrong, empty if ok"`
	Checked  VerifyCounts `json:"checked"`
}

// NodeHash is the state hash of one node.
type NodeHash struct {
	ID    string `json:"id"`
	Hash  string `json:"hash"`
	Error string `json:"error" doc:"why it gave none"`
}

// VerifyCounts say how much was compared.
type VerifyCounts struct {
	Messages   uint64 `json:"messages"`
	Bodies     uint64 `json:"bodies"`
	Recipients uint64 `json:"recipients"`
	Mailboxes  uint64 `json:"mailboxes"`
}

// VerifyOptions steer a verification.
type VerifyOptions struct {
	Bodies bool // also read every body and compare it with its digest
}

// ---------------------------------------------------------------- directory

// Domain is a local mail domain.
type Domain struct {
	Name     string `json:"name"`
	CatchAll string `json:"catch_all" required:"false" doc:"address that gets mail to unknown local parts; empty: refused"`
	Greylist *int64 `json:"greylist_seconds,omitempty" doc:"how long strangers' first mail is put off; 0: not; absent: as the settings say"`
	Suppress int64  `json:"suppress_seconds,omitempty" minimum:"0" doc:"for how long its senders' mail goes to no address of which a host said that nobody has it; 0: it goes"`
	Created  Time   `json:"created" readOnly:"true" required:"false"`
	Users    uint64 `json:"users" readOnly:"true" required:"false"`
	// AuthPolicy is one of the AuthPolicies; empty in AddDomain: tag.
	AuthPolicy string `json:"auth_policy" required:"false" enum:"tag,refuse,none" doc:"what SPF, DKIM and DMARC do to mail from strangers: tag it, refuse what its author's domain wants refused, or none of it"`
}

// AuthPolicies of a domain.
const (
	AuthTag    = "tag"
	AuthRefuse = "refuse"
	AuthNone   = "none"
)

// DomainSet changes a local domain; a field that is nil stays as it is.
type DomainSet struct {
	AuthPolicy *string `json:"auth_policy,omitempty" enum:"tag,refuse,none"`
	CatchAll   *string `json:"catch_all,omitempty" doc:"empty: none"`
	Greylist   *int64  `json:"greylist_seconds,omitempty" doc:"0: no greylisting; less than 0: as the settings say"`
	Suppress   *int64  `json:"suppress_seconds,omitempty" minimum:"0" doc:"0: its senders' mail goes to addresses that nobody has, too"`
}

// User is an account with a mailbox. The password never leaves the cluster.
type User struct {
	Address       string   `json:"address"`
	Name          string   `json:"name"`
	Disabled      bool     `json:"disabled"`
	Created       Time     `json:"created"`
	QuotaBytes    uint64   `json:"quota_bytes" doc:"0: no limit"`
	QuotaMessages uint64   `json:"quota_messages" doc:"0: no limit"`
	Shared        bool     `json:"shared" doc:"several POP3 sessions at once"`
	Senders       []string `json:"senders" doc:"further addresses it may send as"`
	SendLimitDay  uint64   `json:"send_limit_day" doc:"0: no limit"`
	Retention     int64    `json:"retention_seconds" doc:"0: for ever"`
	LoginDelay    int64    `json:"login_delay_seconds" doc:"least time between POP3 logins"`
	Messages      uint64   `json:"messages" doc:"in the mailbox"`
	Bytes         uint64   `json:"bytes" doc:"in the mailbox"`
	Aliases       []string `json:"aliases" doc:"aliases that lead here; only in the view of one user"`
}

// UserAdd makes an account.
type UserAdd struct {
	Address       string `json:"address"`
	Password      string `json:"password,omitempty" doc:"in clear, hashed by the node; or leave empty and give password_hash"`
	PasswordHash  string `json:"password_hash,omitempty" doc:"PHC string or crypt/bcrypt as imported"`
	Name          string `json:"name,omitempty"`
	QuotaBytes    uint64 `json:"quota_bytes,omitempty"`
	QuotaMessages uint64 `json:"quota_messages,omitempty"`
}

// UserSet changes an account; a field that is null stays as it is.
type UserSet struct {
	Password      *string   `json:"password,omitempty"`
	PasswordHash  *string   `json:"password_hash,omitempty"`
	Name          *string   `json:"name,omitempty"`
	Disabled      *bool     `json:"disabled,omitempty"`
	QuotaBytes    *uint64   `json:"quota_bytes,omitempty"`
	QuotaMessages *uint64   `json:"quota_messages,omitempty"`
	Shared        *bool     `json:"shared,omitempty"`
	Senders       *[]string `json:"senders,omitempty"`
	SendLimitDay  *uint64   `json:"send_limit_day,omitempty"`
	Retention     *int64    `json:"retention_seconds,omitempty"`
	LoginDelay    *int64    `json:"login_delay_seconds,omitempty"`
}

// Removed says what went, or would go, with a removed user or domain.
type Removed struct {
	DryRun   bool     `json:"dry_run"`
	Name     string   `json:"name"`
	Messages uint64   `json:"messages" doc:"mailbox messages deleted with it"`
	Bytes    uint64   `json:"bytes"`
	Effects  []string `json:"effects" doc:"what it does, one sentence each"`
}

// DropOptions steer the removal of a user or a domain.
type DropOptions struct {
	DryRun bool
}

// Alias leads an address to others.
type Alias struct {
	Address string   `json:"address"`
	Targets []string `json:"targets"`
	Owner   string   `json:"owner" required:"false" doc:"reverse-path of list mail; empty: the sender's"`
	// Replace allows SetAlias to take all mail away from an account of that address.
	Replace bool `json:"-"`
}

// Route says where mail to a domain goes.
type Route struct {
	Domain string `json:"domain" doc:"or * for all remote mail"`
	Target string `json:"target" doc:"mx, smtp:HOST[:PORT], lmtp:HOST:PORT, discard"`
	// NoEHLO needs cluster version 2.
	NoEHLO []string `json:"no_ehlo,omitempty" required:"false" doc:"EHLO keywords of the hop that do not count, such as PIPELINING"`
	RouteSenders
	RouteHops
	RouteTLS
	RouteLogin
	RouteCert
}

// RouteSenders says whose mail a route is for: of its domain, the route that names account and sender comes first, then
// the one with the account, with the sender's address, with the sender's domain, and at last that for all. A sender
// counts where a trusted client or an account has handed the mail in. It needs cluster version 2.
type RouteSenders struct {
	From  string `json:"from,omitempty" query:"from" required:"false" doc:"only for mail of this sender: address, @domain, or <> for the null path"`
	Login string `json:"login,omitempty" query:"login" required:"false" doc:"only for mail that this account has handed in"`
}

// RouteHops says where else a route's mail goes, and from where. It needs cluster version 2.
type RouteHops struct {
	More     []string `json:"more,omitempty" required:"false" doc:"targets beside target, each a host: one of all is tried first by lot, the others follow"`
	Weights  []uint32 `json:"weights,omitempty" required:"false" doc:"of target and of each in more: in which share it is tried first"`
	Fallback string   `json:"fallback,omitempty" required:"false" doc:"smtp:HOST[:PORT], where mail goes that no other host took or refused for good"`
	Callout  bool     `json:"callout,omitempty" required:"false" doc:"mail to the domain is taken from anyone, for recipients that the target takes when it is asked"`
	// Recipients is for one domain, as Callout is.
	Recipients string   `json:"recipients,omitempty" required:"false" doc:"list: mail to the domain is taken from anyone, for recipients that its list has; all others are refused"`
	Sources    []string `json:"sources,omitempty" required:"false" doc:"addresses to connect from, of which each node uses its own"`
}

// RouteCert is what the relay shows to hosts of a route that ask for a certificate. It needs cluster version 2.
type RouteCert struct {
	ClientCert   string `json:"client_cert,omitempty" required:"false" doc:"certificate in PEM, with those between it and its CA"`
	ClientKey    string `json:"client_key,omitempty" required:"false" writeOnly:"true" doc:"its key in PEM; never shown. Without it the present one stays, for the same certificate and targets"`
	ClientKeySet bool   `json:"client_key_set,omitempty" required:"false" readOnly:"true" doc:"there is a key"`
}

// RouteLogin says as whom the relay logs in at a route's host. It needs cluster version 2.
type RouteLogin struct {
	User        string `json:"user,omitempty" required:"false" doc:"to log in as by SCRAM-SHA-256, PLAIN or LOGIN; needs a host as target. TLS is verified unless tls says otherwise"`
	Password    string `json:"password,omitempty" required:"false" writeOnly:"true" doc:"of user; never shown. Without it the present one stays, for the same user and target"`
	OAuth       bool   `json:"oauth,omitempty" required:"false" doc:"the password is a credential for access tokens (OAUTHBEARER, XOAUTH2), in JSON: token_url, client_id, client_secret, scope, refresh_token; or the file of a Google service account"`
	PasswordSet bool   `json:"password_set,omitempty" required:"false" readOnly:"true" doc:"there is a password"`
}

// RouteTLS says how the connections of a route use TLS. It needs cluster version 2.
type RouteTLS struct {
	TLS          string   `json:"tls,omitempty" required:"false" doc:"none, opportunistic, encrypt (with any certificate), verify (with one for the host's name), dane (with one that its TLSA records name) or fingerprint; empty: [delivery] tls of the node"`
	ImplicitTLS  bool     `json:"implicit_tls,omitempty" required:"false" doc:"TLS from the first octet on, port 465 where none is given"`
	Fingerprints []string `json:"fingerprints,omitempty" required:"false" doc:"SHA-256 of certificates or of their public keys, in hexadecimal"`
	TLSCA        string   `json:"tls_ca,omitempty" required:"false" doc:"certificates in PEM that count in place of the system's"`
}

// Settings are the replicated policies. Zero values mean the default.
type Settings struct {
	HistorySeconds    int64  `json:"history_seconds" required:"false" doc:"how long history outlives a message; 0: 3 days"`
	HistoryBytes      uint64 `json:"history_bytes" required:"false" doc:"bound of all finished history; 0: 4 GiB, and 1 GiB before cluster version 2"`
	AuditSeconds      int64  `json:"audit_seconds" required:"false" doc:"how long the audit log is kept; 0: 400 days"`
	AuditBytes        uint64 `json:"audit_bytes" required:"false" doc:"bound of the audit log; 0: 64 MiB"`
	ExpireSeconds     int64  `json:"expire_seconds" required:"false" doc:"how long the queue tries; 0: 5 days"`
	RetryFirstSeconds int64  `json:"retry_first_seconds" required:"false" doc:"wait after the first failure; 0: 5 minutes"`
	RetryMaxSeconds   int64  `json:"retry_max_seconds" required:"false" doc:"longest wait; 0: 4 hours"`
	DefaultDomain     string `json:"default_domain" required:"false" doc:"completes bare local parts of trusted senders"`
	FromCheck         string `json:"from_check,omitempty" doc:"what becomes of accounts' mail whose From is not theirs: refuse, unsigned or off; absent: unsigned, and a change leaves it as it is"`

	Limits     []string `json:"limits,omitzero" required:"false" doc:"limits that hold for the whole cluster, one for each key: KEY [connections=N] [per-connection=N] [rate=N/s|m|h|d] [recipients=N/s|m|h|d] [burst=N], where KEY is site:NAME, domain:NAME or route:TARGET, and the name * is each one without a limit of its own; absent: a change leaves them as they are. It needs cluster version 2"`
	Sites      []string `json:"sites,omitzero" required:"false" doc:"sites before the built-in ones, NAME MX-SUFFIX…: domains whose MX hosts all end so share the limits of the site; a built-in name replaces that one, without suffixes it takes it away; absent: a change leaves them as they are. It needs cluster version 2"`
	ReplyRules []string `json:"reply_rules,omitzero" required:"false" doc:"what replies of hosts mean, before the built-in table, the first that fits: CLASS [CODE] [x.y.z] [WORDS]; absent: a change leaves them as they are. It needs cluster version 2"`

	RetryRules     []string `json:"retry_rules,omitzero" required:"false" doc:"when to try again, how long, and when to tell the sender, by domain and class of the last reply: DOMAIN|.DOMAIN|* [CLASS] first=5m max=4h factor=1.8 expire=5d notice=4h; each value is that of the first rule that fits and names it; absent: a change leaves them as they are. It needs cluster version 2"`
	SlowClasses    []string `json:"slow_classes,omitzero" required:"false" doc:"classes of replies, such as rate, that make a destination get less at a time; absent: a change leaves them as they are. It needs cluster version 2"`
	DelayNotice    *int64   `json:"delay_notice_seconds,omitempty" doc:"age at which known senders, and those who asked, are told of a delay; 0: 4 hours; less: never; absent: 4 hours, and a change leaves it as it is. It needs cluster version 2"`
	NoticeTemplate *string  `json:"notice_template,omitempty" doc:"text of notices: sections [failure], [delay] and [success]; empty: the built-in text; absent: the same, and a change leaves it as it is. It needs cluster version 2"`

	SRSDomain     *string `json:"srs_domain,omitempty" doc:"local domain of the reverse-paths that strangers' mail gets where an alias leads it elsewhere; empty: they stay; absent: the same, and a change leaves it as it is. It needs cluster version 2"`
	SRSGeneration uint32  `json:"srs_generation,omitempty" doc:"of the keys of these reverse-paths; one more makes all that were made before void; absent or 0: a change leaves it as it is"`

	Greylist        int64    `json:"greylist_seconds" required:"false" doc:"how long strangers' first mail is put off; 0: greylisting is off"`
	GreylistWindow  int64    `json:"greylist_window_seconds" required:"false" doc:"for how long a retry is waited for; 0: 8 hours"`
	GreylistLife    int64    `json:"greylist_life_seconds" required:"false" doc:"how long a sender that came again is known after its last mail; 0: 36 days"`
	GreylistTrust   int32    `json:"greylist_trust" required:"false" doc:"senders of one network that must have come again before all of its mail passes; 0: 5; less: never"`
	GreylistExempt  []string `json:"greylist_exempt,omitempty" doc:"networks that are not greylisted"`
	GreylistRecords uint32   `json:"greylist_records" required:"false" doc:"bound of what is remembered; 0: 200000"`

	Changed *uint64 `json:"changed,omitempty" doc:"which change of the settings these are; a change that gives it is refused (409) where somebody else has changed them since; absent: it replaces what there is, and before cluster version 2"`
}

// ---------------------------------------------------------------- queue

// States of a recipient. Delivered and below occur in Trace only.
const (
	StateQueued     = "queued"
	StateActive     = "active"
	StateDeferred   = "deferred"
	StateHeld       = "held"
	StateSuspended  = "suspended"
	StateDelivered  = "delivered"
	StateBounced    = "bounced"
	StateExpired    = "expired"
	StateDeleted    = "deleted"
	StateRedirected = "redirected"
)

// QueueMessage is one waiting message.
type QueueMessage struct {
	ID         string           `json:"id"`
	Created    Time             `json:"created"`
	AgeSeconds int64            `json:"age_seconds"`
	Size       uint64           `json:"size"`
	Sender     string           `json:"sender" doc:"reverse-path, empty for the null path"`
	Owner      string           `json:"owner" doc:"node that is to deliver it; empty while it changes hands"`
	Recipients []QueueRecipient `json:"recipients"`
}

// QueueRecipient is one waiting recipient.
type QueueRecipient struct {
	Address     string `json:"address"`
	Domain      string `json:"domain"`
	State       string `json:"state" enum:"queued,active,deferred,held,suspended,delivered,bounced,expired,deleted,redirected"`
	Attempts    uint32 `json:"attempts"`
	NextAttempt Time   `json:"next_attempt"`
	LastReply   string `json:"last_reply"`
	LastAttempt Time   `json:"last_attempt"`
	Class       string `json:"class,omitempty" required:"false" doc:"what the last reply means, if it is a failure: bad_address, full, policy, blocklist, rate, greylist, tls, dns, auth, content, network, system or other; of one message only, not in lists"`
	Rule        uint64 `json:"rule,omitempty" doc:"the standing rule that decides on it: it holds, suspends or redirects it, or is about to end it"`
}

// QueueDetail is one message with everything an operator may ask about it.
type QueueDetail struct {
	QueueMessage
	MessageID string   `json:"message_id"`
	Client    Origin   `json:"client"`
	Expires   Time     `json:"expires" doc:"when the queue gives up"`
	Route     []string `json:"routes" doc:"the hop of each recipient, in their order"`
	LastHost  []string `json:"last_hosts" doc:"the host tried last for each recipient, in their order"`
	Why       []string `json:"why" doc:"why it waits and what happens next, one sentence a line"`
	Replicas  []string `json:"replicas" doc:"nodes that hold it"`
}

// Origin says who handed a message in, and how.
type Origin struct {
	Node     string `json:"node"`
	Address  string `json:"address"`
	Helo     string `json:"helo"`
	TLS      string `json:"tls"`
	User     string `json:"user"`
	Protocol string `json:"protocol"`
	Session  string `json:"session"`
}

// QueueStats is the destination × age matrix, busiest destination first.
type QueueStats struct {
	Total        QueueTotals       `json:"total"`
	States       map[string]uint64 `json:"states" doc:"recipients by state"`
	Ages         []int64           `json:"ages_seconds" doc:"upper bounds of the age columns; the last column has none"`
	Destinations []Destination     `json:"destinations"`
	Owners       map[string]uint64 `json:"owners" doc:"recipients by owning node"`
	Classes      map[string]uint64 `json:"classes,omitempty" required:"false" doc:"deferred recipients by class of the last reply; of a long queue an estimate"`
	Advice       []string          `json:"advice,omitempty" required:"false" doc:"settings that would help with what deferred mail waits for, in words"`
	Rules        []RuleCount       `json:"rules,omitempty" required:"false" doc:"what standing rules decide on; of a long queue an estimate"`
}

// RuleCount is how much of the queue a standing rule decides on.
type RuleCount struct {
	Rule       uint64 `json:"rule"`
	Action     string `json:"action" enum:"hold,suspend,redirect,bounce,discard"`
	Recipients uint64 `json:"recipients"`
}

// QueueAges are the upper bounds of the columns of QueueStats, in seconds.
func QueueAges() []int64 { return []int64{300, 900, 3600, 4 * 3600, 24 * 3600} }

// Destination is one row of QueueStats.
type Destination struct {
	Domain    string   `json:"domain"`
	Total     uint64   `json:"total"`
	Bytes     uint64   `json:"bytes"`
	Ages      []uint64 `json:"ages" doc:"recipients by age column: one more than ages_seconds"`
	Deferred  uint64   `json:"deferred"`
	Parked    uint64   `json:"parked" doc:"held or suspended"`
	LastReply string   `json:"last_reply" doc:"the latest failure"`
	Site      string   `json:"site,omitempty" required:"false" doc:"where the domain receives its mail, as far as the node that answers has delivered there; its limits are site:NAME"`

	Class   string            `json:"class,omitempty" required:"false" doc:"what the latest failure means"`
	Classes map[string]uint64 `json:"classes,omitempty" required:"false" doc:"deferred recipients by class of the last reply; of a long queue an estimate"`
}

// Actions on queued messages.
const (
	ActionRetry   = "retry"
	ActionHold    = "hold"
	ActionRelease = "release"
	ActionRemove  = "rm"
	ActionBounce  = "bounce"
	ActionReroute = "reroute"
)

// QueueAction changes messages by ids, or by filter with All set.
type QueueAction struct {
	Action    string      `json:"action" enum:"retry,hold,release,rm,bounce,reroute"`
	IDs       []string    `json:"ids,omitempty" required:"false"`
	All       bool        `json:"all,omitempty" required:"false" doc:"act on all that filter matches; without a filter on the whole queue"`
	Filter    QueueFilter `json:"filter,omitzero" required:"false"`
	Recipient string      `json:"recipient,omitempty" required:"false" doc:"only this recipient of each message"`
	Route     string      `json:"route,omitempty" required:"false" doc:"for reroute: as in routes"`
	Reason    string      `json:"reason,omitempty" required:"false" doc:"for bounce: text for the sender"`
	DryRun    bool        `json:"dry_run,omitempty" required:"false"`
}

// QueueActionResult says what an action touched or would touch.
type QueueActionResult struct {
	Action   string         `json:"action"`
	DryRun   bool           `json:"dry_run"`
	Matched  int            `json:"matched" doc:"messages that ids or filter name"`
	Already  int            `json:"already" doc:"messages that were so already and, with all, those that the action cannot change; they stay as they are"`
	Changed  int            `json:"changed" doc:"messages changed; with dry_run: that would be"`
	Messages []QueueMessage `json:"messages" doc:"the messages concerned, at most 1000"`
	Refused  []QueueRefusal `json:"refused"`
}

// QueueRefusal says why one message stayed as it was.
type QueueRefusal struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// ---------------------------------------------------------------- history

// Trace is the timeline of one message, also after delivery.
type Trace struct {
	ID         string           `json:"id"`
	MessageID  string           `json:"message_id"`
	Created    Time             `json:"created"`
	Sender     string           `json:"sender"`
	Size       uint64           `json:"size"`
	Client     Origin           `json:"client"`
	Owner      string           `json:"owner" doc:"empty if nothing waits any more"`
	Recipients []QueueRecipient `json:"recipients"`
	Events     []TraceEvent     `json:"events"`
}

// Only leaves of the recipients and lines those of recipients that fit a pattern,
// and lines that are about none.
func (t *Trace) Only(pattern string) {
	t.Recipients = slices.DeleteFunc(t.Recipients,
		func(r QueueRecipient) bool { return !MatchAddress(pattern, r.Address) })
	t.Events = slices.DeleteFunc(t.Events, func(e TraceEvent) bool {
		return e.Recipient != "" && !MatchAddress(pattern, e.Recipient)
	})
}

// TraceEvent is one line of the timeline.
type TraceEvent struct {
	At             Time   `json:"at"`
	What           string `json:"what" doc:"accepted, delivered, deferred, bounced, expired, held, released, retried, deleted, redirected, removed"`
	Node           string `json:"node"`
	Recipient      string `json:"recipient"`
	Attempt        uint32 `json:"attempt"`
	Host           string `json:"host"`
	TLS            string `json:"tls"`
	Reply          string `json:"reply"`
	Class          string `json:"class,omitempty" required:"false" doc:"what the reply means, if it is a failure"`
	NextAttempt    Time   `json:"next_attempt"`
	MaybeDuplicate bool   `json:"maybe_duplicate" doc:"a dead node may have delivered it already"`
	Who            string `json:"who"`
	Why            string `json:"why"`
	Detail         string `json:"detail"`
	Bounce         string `json:"bounce" doc:"id of the notice sent"`
	Index          uint64 `json:"index" doc:"log index of the change"`
}

// Count says how many there are of what was asked for.
type Count struct {
	Count   uint64 `json:"count"`
	AtLeast bool   `json:"at_least" doc:"counting ended there, and there may be more"`
}

// TraceQuery finds messages by what the operator knows. Empty fields match all.
type TraceQuery struct {
	MessageID string // without <>
	From      string // pattern, see MatchAddress
	To        string // pattern, see MatchAddress
	Client    string // address or network of who handed it in, see MatchClient
	User      string // login, see MatchUser
	Helo      string // what the client called itself: a name, or part with *
	Since     Time   // accepted at or after
	Until     Time   // accepted before; zero: no bound
	Before    string // only messages older than the one with this id; empty: no bound
	Limit     int    // the newest so many; 0: 100
}

// ---------------------------------------------------------------- mailboxes

// Mailbox is one maildrop.
type Mailbox struct {
	User          string `json:"user"`
	Messages      uint64 `json:"messages"`
	Bytes         uint64 `json:"bytes"`
	QuotaBytes    uint64 `json:"quota_bytes" doc:"0: no limit"`
	QuotaMessages uint64 `json:"quota_messages" doc:"0: no limit"`
	Lock          *Lock  `json:"lock" doc:"null if free"`
	Others        []Lock `json:"others,omitempty" doc:"further sessions, where the maildrop is shared"`
}

// Lock is the POP3 session that holds a maildrop.
type Lock struct {
	Node       string `json:"node"`
	Session    string `json:"session"`
	Remote     string `json:"remote"`
	Since      Time   `json:"since"`
	AgeSeconds int64  `json:"age_seconds"`
	Token      uint64 `json:"token" doc:"fencing token"`
}

// MailboxDetail is one maildrop with its messages, oldest first.
type MailboxDetail struct {
	Mailbox
	Content []MailboxMessage `json:"content"`
}

// MailboxMessage is one message in a maildrop.
type MailboxMessage struct {
	UID       uint64 `json:"uid"`
	ID        string `json:"id"`
	Size      uint64 `json:"size"`
	Received  Time   `json:"received"`
	Recipient string `json:"recipient" doc:"the address that led here"`
	Sender    string `json:"sender"`
	UIDL      string `json:"uidl" doc:"unique id that POP3 clients know it by"`
}

// Unlocked says whose lock was broken.
type Unlocked struct {
	User string `json:"user"`
	Lock *Lock  `json:"lock" doc:"the lock that was broken; null if there was none"`
}

// ---------------------------------------------------------------- mail, audit

// Envelope goes with a message that is handed in.
type Envelope struct {
	Sender     string   // reverse-path, empty for the null path
	Recipients []string // at least one
}

// Receipt says what was accepted.
type Receipt struct {
	ID         string             `json:"id"`
	Node       string             `json:"node" doc:"node that accepted it"`
	Size       uint64             `json:"size" doc:"octets as stored"`
	Recipients []ReceiptRecipient `json:"recipients"`
	Dialogue   []string           `json:"dialogue" doc:"what was done, one line a step, with the reply an SMTP client would have seen"`
}

// ReceiptRecipient is the verdict on one recipient.
type ReceiptRecipient struct {
	Address  string `json:"address"`
	Accepted bool   `json:"accepted"`
	Reply    string `json:"reply" doc:"as in SMTP: code, enhanced code, text"`
}

// AuditEntry is one administrative change.
type AuditEntry struct {
	At    Time   `json:"at"`
	Who   string `json:"who"`
	Why   string `json:"why"`
	What  string `json:"what"`
	Node  string `json:"node" doc:"node that took the request"`
	Index uint64 `json:"index"`
}

// AuditQuery selects entries.
type AuditQuery struct {
	Since  Time
	Before uint64 // only entries of a lower index; 0: no bound
	Limit  int    // the newest so many; 0: 100
}
