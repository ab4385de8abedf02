// Package operator serves the admin API over the replicated spool: directory, queue,
// mailboxes, history, audit log and members. It reads the node's own state, proposes
// changes, and asks other nodes for what only they know.
package operator

import (
	"context"
	"io"
	"time"

	"go.uber.org/zap"

	"relay/node/admin"
	"relay/node/operator/edit"
	"relay/node/operator/records"
	"relay/node/replica"
	"relay/queue"
)

// Config is what an operator asks for. It is set before the first call and
// never changes; functions are called concurrently.
type Config struct {
	Node     string // this node's id
	Hostname string // in the reports that it writes
	Replica  replica.Replica
	Members  membership
	Log      *zap.Logger
	Now      func() time.Time
	// HashPassword makes the stored form of a new password.
	HashPassword func(password string) (string, error)
	// Active lists the recipients that this node is trying now, and why says
	// what the queue manager waits for with one.
	Active func() []queue.Ref
	Why    func(queue.Ref) string
	// Site names where a domain receives its mail; empty: it is not known. Nil: no site is.
	Site func(domain string) string
	// Submit takes a message in as a trusted client's; nil: not offered.
	Submit func(ctx context.Context, sender string, recipients []string, message io.Reader,
		by admin.By) (*admin.Receipt, error)
	// Full measures whether the disk here has room for nothing more; nil: it has.
	Full func() bool
	// NodeStats tells what only this node knows of itself.
	NodeStats func() NodeStats
}

// Operator meets every port of the admin API over the replicated spool: it reads from
// this node's state all that it shows, proposes its changes, and asks one node for
// facts that only that node knows (attempts under way, free space). Its methods may be
// called concurrently.
type Operator struct {
	Config
	*records.Records
	edit  *edit.Editor
	peers peerCache
}

var (
	_ admin.Cluster = (*Operator)(nil)
	_ admin.Domains = (*Operator)(nil)
	_ admin.Users   = (*Operator)(nil)
	_ admin.Aliases = (*Operator)(nil)
	_ admin.Routes  = (*Operator)(nil)
	_ admin.Rules   = (*Operator)(nil)
	_ admin.Policy  = (*Operator)(nil)

	_ admin.Suppressions = (*Operator)(nil)

	_ admin.Queue     = (*Operator)(nil)
	_ admin.History   = (*Operator)(nil)
	_ admin.Mailboxes = (*Operator)(nil)
	_ admin.Content   = (*Operator)(nil)
	_ admin.Mail      = (*Operator)(nil)
	_ admin.Auditor   = (*Operator)(nil)
)

// New makes the operator of a node.
func New(c Config) *Operator {
	e := edit.New(c.Node, c.Replica, c.Log)
	return &Operator{Config: c, edit: e, Records: records.New(e, c.Replica, c.Now, c.HashPassword)}
}

// Ports hands the operator to the admin server.
func (o *Operator) Ports() admin.Ports {
	return admin.Ports{
		Cluster: o, Domains: o, Users: o, Aliases: o, Signers: o, Routes: o, Rules: o, Suppressions: o,
		Policy: o, Queue: o, History: o, Mailboxes: o, Content: o, Mail: o, Audit: o,
	}
}
