package config

import (
	"net/netip"
	"strings"
	"time"
)

// Config is the file of one node. Settings that all nodes must agree on (domains,
// accounts, routes, retry policy, …) are not here: they are replicated.
type Config struct {
	Node     Node     `toml:"node"`
	Cluster  Cluster  `toml:"cluster"`
	SMTP     []SMTP   `toml:"smtp"`
	POP3     []POP3   `toml:"pop3"`
	POP2     []POP2   `toml:"pop2"`
	Folders  []Folder `toml:"folder"`
	Admin    Admin    `toml:"admin"`
	TLS      TLS      `toml:"tls"`
	ACME     ACME     `toml:"acme"`
	Relay    Relay    `toml:"relay"`
	Milter   []Milter `toml:"milter"`
	Verify   Verify   `toml:"verify"`
	DNSBL    []DNSBL  `toml:"dnsbl"`
	Limits   Limits   `toml:"limits"`
	Delivery Delivery `toml:"delivery"`
	Storage  Storage  `toml:"storage"`
	Log      Log      `toml:"log"`

	// Unwise is what the last check found that is no mistake, and hardly meant.
	Unwise []Problem `toml:"-"`
}

// Node says who this node is.
type Node struct {
	// ID names the node in the cluster and is fixed for life. Required: 1 to
	// 63 of a-z, 0-9, dot, dash and underscore.
	ID string `toml:"id"`
	// Hostname stands in greetings, EHLO and Received. Default: what the
	// operating system says.
	Hostname string `toml:"hostname"`
	// DataDir holds everything the node keeps. Default: /var/lib/relay.
	DataDir string `toml:"data_dir"`
}

// Cluster is the port on which members talk to each other.
type Cluster struct {
	// Listen is the address of that port. Default: 0.0.0.0:7170.
	Listen string `toml:"listen"`
	// Advertise is the address by which others reach it, HOST:PORT. Default:
	// Listen, if that names one address.
	Advertise string `toml:"advertise"`
	// Join are cluster addresses of members that a node without any state
	// asks to be let in. Default: none, the node waits for init or join.
	Join []string `toml:"join"`
	// JoinTokenFile holds the token for Join. Default: none.
	JoinTokenFile string `toml:"join_token_file"`
	// Latency is how long a message to another node takes at worst, one way, with
	// a sync of the disk where that is slow. Sessions, elections and time limits
	// between nodes allow for it; a dead node is noticed that much later, ten
	// times as much and more. 0 to 1s. Default: 0, a local network.
	Latency Duration `toml:"latency"`
	// Peers are addresses of other members, "ID=HOST:PORT", beside those that
	// the cluster itself knows. Needed where nodes got new addresses while all of
	// them were stopped. Default: none.
	Peers []string `toml:"peers"`
}

// PeerAddresses are the addresses of Peers by node id.
func (c Cluster) PeerAddresses() map[string]string {
	all := make(map[string]string, len(c.Peers))
	for _, p := range c.Peers {
		id, addr, _ := strings.Cut(p, "=")
		all[id] = addr
	}
	return all
}

// Role says what an SMTP listener is for.
type Role string

// The roles.
const (
	// RoleMX takes mail to local domains from anyone; AUTH is offered on TLS
	// or to trusted peers.
	RoleMX Role = "mx"
	// RoleSubmission wants AUTH before MAIL.
	RoleSubmission Role = "submission"
)

// TLSMode says how a listener speaks TLS.
type TLSMode string

// The modes.
const (
	TLSNone     TLSMode = "none"
	TLSStart    TLSMode = "starttls"
	TLSImplicit TLSMode = "implicit"
)

// SMTP is one SMTP listener.
type SMTP struct {
	// Listen is its address. Required.
	Listen string `toml:"listen"`
	// Role is mx or submission. Default: mx.
	Role Role `toml:"role"`
	// TLS is none, starttls or implicit. Default: starttls.
	TLS TLSMode `toml:"tls"`
	// ProxyProtocol lists load balancers that may speak PROXY v1 and v2.
	// Default: none.
	ProxyProtocol []netip.Prefix `toml:"proxy_protocol"`
	// XClient lists peers that may use XCLIENT. Default: none.
	XClient []netip.Prefix `toml:"xclient"`
	// LenientSyntax takes "RCPT user@host" from anyone. Default: false.
	LenientSyntax bool `toml:"lenient_syntax"`
	// LegacyVerbs takes "MAIL_FROM:", "RCPT_TO:" and, on TLS or from trusted
	// peers, "AUTHLOGIN user pass". Default: false.
	LegacyVerbs bool `toml:"legacy_verbs"`
	// VRFY answers VRFY and EXPN to trusted and authenticated peers.
	// Default: false (252 and 502).
	VRFY bool `toml:"vrfy"`
	// GreetPause is how long strangers must be silent before they are greeted;
	// a client that talks first is turned away. At most 10s. Default: 0s, none.
	GreetPause Duration `toml:"greet_pause"`
	// BounceUnknown accepts unknown recipients from authenticated senders and
	// bounces them, instead of refusing them. Default: false.
	BounceUnknown bool `toml:"bounce_unknown"`
	// SASLMechanisms are what AUTH offers, in this order: PLAIN, LOGIN,
	// SCRAM-SHA-256, SCRAM-SHA-256-PLUS. Default: the first three, of them
	// SCRAM-SHA-256 only while every account can use it.
	SASLMechanisms []string `toml:"sasl_mechanisms"`
}

// POP3 is one POP3 listener.
type POP3 struct {
	// Listen is its address. Required.
	Listen string `toml:"listen"`
	// TLS is none, starttls or implicit. Default: starttls.
	TLS TLSMode `toml:"tls"`
	// ProxyProtocol lists load balancers that may speak PROXY v1 and v2.
	// Default: none.
	ProxyProtocol []netip.Prefix `toml:"proxy_protocol"`
	// UIDBeyondSnapshot serves UID:… also for mail that came after the login.
	// Default: true.
	UIDBeyondSnapshot bool `toml:"uid_beyond_snapshot"`
	// XLOG takes "XLOG user password", a login in one command. Default: false.
	XLOG bool `toml:"xlog"`
	// Without switches extensions off: of POP3Extensions. Default: none.
	Without []string `toml:"without"`
	// SASLMechanisms are what AUTH offers, in this order: PLAIN, LOGIN,
	// SCRAM-SHA-256, SCRAM-SHA-256-PLUS. Default: the first three, of them
	// SCRAM-SHA-256 only while every account can use it.
	SASLMechanisms []string `toml:"sasl_mechanisms"`
}

// POP3Extensions names what Without may switch off.
func POP3Extensions() []string {
	return []string{"utf8", "lang", "uidparam", "sleep", "deli", "qaut", "last"}
}

// POP2 is one POP2 listener (RFC 937). That protocol knows no TLS: only trusted
// networks can log in.
type POP2 struct {
	// Listen is its address. Required.
	Listen string `toml:"listen"`
	// ProxyProtocol lists load balancers that may speak PROXY v1 and v2.
	// Default: none.
	ProxyProtocol []netip.Prefix `toml:"proxy_protocol"`
}

// Folder shows a folder of .eml files as a user's maildrop, for reading only. It
// should be named on every node, with the same files.
type Folder struct {
	// User is the account in whose place it is shown: its password, its lock. The
	// account's own mailbox keeps what it gets, out of sight. Required.
	User string `toml:"user"`
	// Dir is the folder's absolute path. Required.
	Dir string `toml:"dir"`
}

// Admin is the admin HTTP API.
type Admin struct {
	// Listen is its address. On anything but loopback TLS and a token are
	// required. Default: 127.0.0.1:7180.
	Listen string `toml:"listen"`
	// TLS is none or implicit. Default: none.
	TLS TLSMode `toml:"tls"`
	// TokenFile holds the bearer tokens; it is read again on reload. Default:
	// admin.token in the data directory, where there is one (see TokenPath).
	TokenFile string `toml:"token_file"`
	// Token is the bearer token itself, for containers that set
	// RELAY_ADMIN_TOKEN. Default: none.
	Token string `toml:"token"`
	// AnonymousLoopback lets clients of this machine in without a token.
	// Default: where there is no token at all (configurations of former
	// versions), with a warning.
	AnonymousLoopback *bool `toml:"anonymous_loopback"`
	// HealthListen is a port of plain HTTP that serves /healthz and /readyz
	// alone, for balancers. Default: none.
	HealthListen string `toml:"health_listen"`
	// URL is where other nodes and relayctl reach this API. Default: made of
	// Listen.
	URL string `toml:"url"`
}

// TLS is the certificate of all listeners.
type TLS struct {
	// Cert is a PEM file with the certificate and its chain; it is read again
	// when it changes. Required where a listener speaks TLS.
	Cert string `toml:"cert"`
	// Key is the PEM file of its private key.
	Key string `toml:"key"`
	// Certificates are further PEM files, each with a certificate, its chain
	// and its key; the name that a client asks for chooses. Default: none.
	Certificates []string `toml:"certificates"`
	// MinVersion is 1.2 or 1.3. Default: 1.2.
	MinVersion string `toml:"min_version"`
}

// ACME has the cluster get certificates by itself (RFC 8555). All nodes share
// them; the leader orders and renews.
type ACME struct {
	// Hosts get a certificate each. Naming one accepts the terms of the CA.
	// Default: none, ACME is off.
	Hosts []string `toml:"hosts"`
	// Directory is the URL of the CA. Default: that of Let's Encrypt.
	Directory string `toml:"directory"`
	// Email is where the CA writes to. Default: none.
	Email string `toml:"email"`
	// TLSListen answers challenges TLS-ALPN-01, which come to port 443.
	// Default: 0.0.0.0:443; empty: not.
	TLSListen string `toml:"tls_listen"`
	// HTTPListen answers challenges HTTP-01, which come to port 80. Default:
	// empty, not.
	HTTPListen string `toml:"http_listen"`
	// CA is a PEM file with the roots of the directory's certificate. Default:
	// the system's.
	CA string `toml:"ca"`
}

// Relay says who may do what, and how much.
type Relay struct {
	// TrustedNetworks may relay and may log in without TLS. Default:
	// 127.0.0.1/32 and ::1/128.
	TrustedNetworks []netip.Prefix `toml:"trusted_networks"`
	// MaxMessageSize is announced by SIZE and enforced. Default: 50MB.
	MaxMessageSize Size `toml:"max_message_size"`
	// ClientCertificates may relay: SHA-256 fingerprints in hex, with or
	// without colons. Default: none.
	ClientCertificates []string `toml:"client_certificates"`
	// ClientCA is a PEM file; a client that shows a certificate that it signed may relay.
	// Default: none.
	ClientCA string `toml:"client_ca"`
	// MaxHops is how many Received fields a message may bring. Default: 100.
	MaxHops int `toml:"max_hops"`
}

// Failure says what happens to mail that a content filter can not be asked about.
type Failure string

// The choices.
const (
	FailAccept   Failure = "accept"
	FailTempfail Failure = "tempfail"
)

// Milter is one content filter, asked about mail while it comes in.
type Milter struct {
	// Address is inet:HOST:PORT or unix:/PATH. Required.
	Address string `toml:"address"`
	// Timeout is how long each of its answers may take. Default: 10s.
	Timeout Duration `toml:"timeout"`
	// OnFailure is what becomes of mail when it does not answer: tempfail puts
	// it off with 451, accept lets it pass unfiltered. Default: tempfail.
	OnFailure Failure `toml:"on_failure"`
	// Roles are the listeners whose mail it sees: mx, submission. Default: all.
	Roles []Role `toml:"roles"`
}

// Verify says how this node finds out who sends what strangers hand in. The use of the
// results is set for each local domain, for the whole cluster.
type Verify struct {
	// AuthservID is the name in Authentication-Results fields. Best the same on
	// all nodes. Default: node.hostname.
	AuthservID string `toml:"authserv_id"`
	// Timeout bounds how long look-ups may hold a message up; a result that is not known
	// then counts as a temporary error. Default: 5s.
	Timeout Duration `toml:"timeout"`
	// DNSBLTimeout is how long lists have to answer, from the connection on; a
	// list that does not counts as a no. Default: 5s.
	DNSBLTimeout Duration `toml:"dnsbl_timeout"`
	// DNSBLExempt are networks that lists are not asked about, beside the
	// trusted ones and addresses that are not public. Default: none.
	DNSBLExempt []netip.Prefix `toml:"dnsbl_exempt"`
}

// DNSBLAction is what it means for a client to be on a list.
type DNSBLAction string

// The actions.
const (
	DNSBLRefuse DNSBLAction = "refuse" // its mail is refused at RCPT, but for postmaster and abuse
	DNSBLTag    DNSBLAction = "tag"    // Authentication-Results say so
	DNSBLExempt DNSBLAction = "exempt" // a list of good ones: the other lists do not count
)

// DNSBL is a list of clients in DNS (RFC 5782).
type DNSBL struct {
	// Zone is the list. Required.
	Zone string `toml:"zone"`
	// Name is what refused clients are told; a zone may have a key in it that is
	// nobody's business. Default: zone.
	Name string `toml:"name"`
	// Action is refuse, tag or exempt. Default: refuse.
	Action DNSBLAction `toml:"action"`
	// Codes are the answers that count, such as "127.0.0.2" or "127.0.0.2-11".
	// Default: all from 127.0.0.2 to 127.255.254.255.
	Codes []string `toml:"codes"`
}

// Limits bound what clients may take, on this node. 0 is no limit.
type Limits struct {
	// SMTPConnections in all; a quarter is for submission and trusted networks
	// only. When half is taken, a client that is silent for a minute is sent away, and
	// when nine tenths are, one that is silent for ten seconds. Default: 20000.
	SMTPConnections int `toml:"smtp_connections"`
	// POP3Connections in all. Default: 20000.
	POP3Connections int `toml:"pop3_connections"`
	// ConnectionsPerClient, from one IPv4 address or one IPv6 /64, SMTP and
	// POP3 apart; an IPv4 /24 and an IPv6 /48 may have twice as many. Trusted
	// networks are exempt. Default: 200.
	ConnectionsPerClient int `toml:"connections_per_client"`
	// MessagesPerMinute from one client; trusted networks are exempt.
	// Default: 0.
	MessagesPerMinute int `toml:"messages_per_minute"`
	// RecipientsPerMinute, BytesPerMinute and ErrorsPerMinute likewise; a
	// client with too many errors is answered 421. Default: 0.
	RecipientsPerMinute int  `toml:"recipients_per_minute"`
	BytesPerMinute      Size `toml:"bytes_per_minute"`
	ErrorsPerMinute     int  `toml:"errors_per_minute"`
	// TotalMessagesPerMinute and the others likewise, of all clients together
	// but those of trusted networks. Default: 0.
	TotalMessagesPerMinute   int  `toml:"total_messages_per_minute"`
	TotalRecipientsPerMinute int  `toml:"total_recipients_per_minute"`
	TotalBytesPerMinute      Size `toml:"total_bytes_per_minute"`
	TotalErrorsPerMinute     int  `toml:"total_errors_per_minute"`
	// Recipients of one message. Default: 1000.
	Recipients int `toml:"recipients"`
	// Errors in one session before it is ended with 421. Default: 10.
	Errors int `toml:"errors"`
	// LoginFailures from one client before logins are refused for a while. A
	// password that is tried by several mechanisms counts once; trusted networks
	// are exempt. Default: 3.
	LoginFailures int `toml:"login_failures"`
	// CommandTimeout is how long a client may be silent between commands.
	// Default: 5m.
	CommandTimeout Duration `toml:"command_timeout"`
	// DataTimeout is how long a client may be silent inside DATA. Default: 3m.
	DataTimeout Duration `toml:"data_timeout"`
	// POP3Idle is the autologout of POP3. At least 10m, by RFC 1939. Default: 10m.
	POP3Idle Duration `toml:"pop3_idle"`
	// POP3SleepIdle is the autologout of sessions that sleep (SLEE). At least 10m.
	// Default: 1h.
	POP3SleepIdle Duration `toml:"pop3_sleep_idle"`
	// POP3SleepingPerUser is how many sessions of one user may sleep at once.
	// Default: 5.
	POP3SleepingPerUser int `toml:"pop3_sleeping_per_user"`
	// POP3SleepingPerClient, from one IPv4 address or one IPv6 /64. Default: 50.
	POP3SleepingPerClient int `toml:"pop3_sleeping_per_client"`
}

// DeliveryTLS says how deliveries use STARTTLS.
type DeliveryTLS string

// The ways.
const (
	DeliveryTLSOff           DeliveryTLS = "none"
	DeliveryTLSOpportunistic DeliveryTLS = "opportunistic"
	DeliveryTLSRequired      DeliveryTLS = "required"
)

// Delivery says how this node hands mail on.
type Delivery struct {
	// Concurrency is how many deliveries may run at once. Default: 200.
	Concurrency int `toml:"concurrency"`
	// PerDestination is how many of them go to one destination. Default: 20.
	PerDestination int `toml:"per_destination"`
	// MessagesPerConnection is how many go over one connection. Default: 100.
	MessagesPerConnection int `toml:"messages_per_connection"`
	// Chunking sends by BDAT where the next hop offers CHUNKING, so that the
	// message arrives octet for octet, an unended last line included. Mail that need
	// not go so goes by DATA on a connection that was used before. Without it only
	// binary mail goes by BDAT. Default: true.
	Chunking bool `toml:"chunking"`
	// TLS is none, opportunistic or required. Default: opportunistic.
	TLS DeliveryTLS `toml:"tls"`
	// Helo is the EHLO argument. Default: node.hostname.
	Helo string `toml:"helo"`
	// ConnectTimeout bounds the connection to one address. Default: 30s.
	ConnectTimeout Duration `toml:"connect_timeout"`
	// DNSServers are asked instead of the system's, ADDRESS or ADDRESS:PORT.
	// Default: none.
	DNSServers []string `toml:"dns_servers"`
	// TrustAD lists DNS servers, besides those on loopback, whose word counts that DNSSEC has secured an answer (the AD
	// bit): they validate, and nobody changes what they say on its way. Default: none.
	TrustAD []netip.Addr `toml:"trust_ad"`
	// Port of the next hop where the route names none; for tests. Default: 25.
	Port int `toml:"port"`
	// LoopbackHops lets MX hosts and address literals lead to loopback addresses;
	// for tests whose DNS points there. Default: false, only a route may.
	LoopbackHops bool `toml:"loopback_hops"`
	// MTASTSPort is the port of the web servers that have MTA-STS policies; for tests. Default: 0, that of HTTPS.
	MTASTSPort int `toml:"mta_sts_port"`
	// HTTPSCA is a PEM file with the roots of their certificates; for tests. Default: the system's.
	HTTPSCA string `toml:"https_ca"`
	// TLSReports counts sessions with hosts of domains that publish DANE or MTA-STS, and tells these domains once a day
	// where they ask for it (TLS-RPT, RFC 8460). To be set alike at all nodes. Default: false.
	TLSReports bool `toml:"tls_reports"`
	// MXSessionLimit is with how many hosts one attempt may begin a transaction;
	// hosts that cannot be reached do not count. Default: 2; 0: no limit.
	MXSessionLimit int `toml:"mx_session_limit"`
	// SourceAddresses are used in turn. Default: the system's choice.
	SourceAddresses []netip.Addr `toml:"source_addresses"`
	// RetryFirst, RetryMax and Expire override the replicated retry policy on
	// this node; for tests. Default: 0, the cluster's settings rule.
	RetryFirst Duration `toml:"retry_first"`
	RetryMax   Duration `toml:"retry_max"`
	Expire     Duration `toml:"expire"`
}

// Storage says when the disk counts as full, and what the store may use.
type Storage struct {
	// MinFree and MinFreePercent: below either, new mail gets 452 while reads,
	// deliveries and deletions go on. Defaults: 512MB and 3.
	MinFree        Size `toml:"min_free"`
	MinFreePercent int  `toml:"min_free_percent"`
	// MaxMessages and MaxBytes bound the spool of the cluster, queue and
	// mailboxes together: above either, new mail gets 452 here. Default: 0, no
	// bound.
	MaxMessages int  `toml:"max_messages"`
	MaxBytes    Size `toml:"max_bytes"`
	// Cache is the memory of the store: blocks it has read, memory tables, the log's
	// newest entries. Default: auto, by the machine's memory or the limit that the
	// process has, from 37MB to 80MB.
	Cache AutoSize `toml:"cache"`
}

// Log says what is logged, on standard error.
type Log struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `toml:"level"`
	// Format is json or console. Default: json.
	Format string `toml:"format"`
}

// New returns the defaults: no listeners and no node id.
func New() *Config {
	return &Config{
		Node:    Node{DataDir: "/var/lib/relay"},
		Cluster: Cluster{Listen: "0.0.0.0:7170"},
		Admin:   Admin{Listen: "127.0.0.1:7180", TLS: TLSNone},
		TLS:     TLS{MinVersion: "1.2"},
		ACME:    ACME{Directory: "https://acme-v02.api.letsencrypt.org/directory", TLSListen: "0.0.0.0:443"},
		Relay: Relay{
			TrustedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")},
			MaxMessageSize:  50 * MB,
			MaxHops:         100,
		},
		Verify: Verify{Timeout: Duration(5 * time.Second), DNSBLTimeout: Duration(5 * time.Second)},
		Limits: Limits{
			SMTPConnections:      20000,
			POP3Connections:      20000,
			ConnectionsPerClient: 200,
			Recipients:           1000,
			Errors:               10,
			LoginFailures:        3,
			CommandTimeout:       Duration(5 * time.Minute),
			DataTimeout:          Duration(3 * time.Minute),
			POP3Idle:             Duration(10 * time.Minute),
			POP3SleepIdle:        Duration(time.Hour),

			POP3SleepingPerUser:   5,
			POP3SleepingPerClient: 50,
		},
		Delivery: Delivery{
			Concurrency:           200,
			PerDestination:        20,
			MessagesPerConnection: 100,
			Chunking:              true,
			TLS:                   DeliveryTLSOpportunistic,
			MXSessionLimit:        2,
			ConnectTimeout:        Duration(30 * time.Second),
			Port:                  25,
		},
		Storage: Storage{MinFree: 512 * MB, MinFreePercent: 3},
		Log:     Log{Level: "info", Format: "json"},
	}
}

// NewSMTP returns the defaults of an SMTP listener.
func NewSMTP() SMTP { return SMTP{Role: RoleMX, TLS: TLSStart} }

// NewMilter returns the defaults of a content filter.
func NewMilter() Milter {
	return Milter{Timeout: Duration(10 * time.Second), OnFailure: FailTempfail}
}

// NewDNSBL returns the defaults of a list.
func NewDNSBL() DNSBL { return DNSBL{Action: DNSBLRefuse} }

// NewPOP3 returns the defaults of a POP3 listener.
func NewPOP3() POP3 { return POP3{TLS: TLSStart, UIDBeyondSnapshot: true} }
