// Package operator serves the admin API over the replicated spool: directory, queue,
// mailboxes, history, audit log and members. It reads the node's own state, proposes
// changes, and asks other nodes for what only they know.
package operator

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica"
	"relay/queue"
	"relay/smtp/printable"
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
	peers peerCache
	// edit serialises changes that read a record and write it back whole.
	edit sync.Mutex
}

var (
	_ admin.Cluster   = (*Operator)(nil)
	_ admin.Domains   = (*Operator)(nil)
	_ admin.Users     = (*Operator)(nil)
	_ admin.Aliases   = (*Operator)(nil)
	_ admin.Routes    = (*Operator)(nil)
	_ admin.Policy    = (*Operator)(nil)
	_ admin.Queue     = (*Operator)(nil)
	_ admin.History   = (*Operator)(nil)
	_ admin.Mailboxes = (*Operator)(nil)
	_ admin.Content   = (*Operator)(nil)
	_ admin.Mail      = (*Operator)(nil)
	_ admin.Auditor   = (*Operator)(nil)
)

// New makes the operator of a node.
func New(c Config) *Operator { return &Operator{Config: c} }

// Ports hands the operator to the admin server.
func (o *Operator) Ports() admin.Ports {
	return admin.Ports{
		Cluster: o, Domains: o, Users: o, Aliases: o, Signers: o, Routes: o, Policy: o, Queue: o,
		History: o, Mailboxes: o, Content: o, Mail: o, Audit: o,
	}
}

// admin makes the record that goes with an operator's command. Part names one
// of several commands of one request by its content: the spool applies a
// request once, and a request that is sent again may cut its work otherwise.
func (o *Operator) admin(by admin.By, part ...[]byte) (*pb.Admin, error) {
	request := ulid.Make()
	if by.Request != "" {
		var err error
		if request, err = ulid.ParseStrict(by.Request); err != nil {
			return nil, admin.Invalid("the request id %q is not a ULID", printable.Text(by.Request, 64))
		}
	}
	adm := &pb.Admin{Who: printable.Text(by.Who, 255), Why: printable.Text(by.Why, 1024), Node: o.Node,
		Request: request[:]}
	if len(part) > 0 {
		h := sha256.New()
		for _, p := range part {
			fmt.Fprintf(h, "%d:", len(p))
			h.Write(p)
		}
		adm.Request = h.Sum(adm.Request)[:32]
	}
	return adm, nil
}

// change proposes an operator's command and waits until this node shows it. A
// refusal comes back as an *admin.Error.
func (o *Operator) change(ctx context.Context, kind spool.Kind, h proto.Message) (*pb.Result, error) {
	o.annotate(h)
	res, err := replica.Propose(ctx, o.Replica, kind, h)
	if err != nil {
		return nil, ProposalError(err)
	}
	if err := refusal(res); err != nil {
		return res, err
	}
	return res, o.caughtUp(ctx, res.Index)
}

// caughtUp waits until this node's reads show what was applied at an index.
func (o *Operator) caughtUp(ctx context.Context, index uint64) error {
	if err := o.Replica.WaitApplied(ctx, index); err != nil {
		return errBehind()
	}
	return nil
}

func errBehind() error {
	return admin.Problem(http.StatusGatewayTimeout, "the change is made, but this node has not caught up with it yet",
		"read it again in a moment, or ask another node")
}

// current brings this node's reads up to date before something is decided by
// them.
func (o *Operator) current(ctx context.Context) error {
	if err := o.Replica.Consistent(ctx); err != nil {
		if errors.Is(err, cluster.ErrUnknown) {
			// Nothing was proposed, so nothing can have changed.
			err = cluster.ErrUnavailable
		}
		return ProposalError(err)
	}
	return nil
}

// ProposalError maps how a proposal can end without a result.
func ProposalError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrUnavailable):
		return admin.NoQuorum("nothing was changed: no majority of the nodes answers")
	case errors.Is(err, cluster.ErrUnknown), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return admin.Unknown("it is not known whether the change was made, the cluster did not answer in time")
	}
	return err
}

// refusal maps what Apply said; nil where the command was carried out, now or
// when it came first. The texts of the spool hold their next step.
func refusal(res *pb.Result) error {
	detail, next, _ := strings.Cut(res.Text, ": ")
	switch res.Code {
	case pb.Code_OK, pb.Code_DUPLICATE:
		return nil
	case pb.Code_MISSING:
		return admin.Problem(http.StatusNotFound, detail, next)
	case pb.Code_INVALID:
		// The form was checked before; Apply judges by what there is.
		return inThisState(detail, next)
	case pb.Code_BUSY:
		return admin.Conflict(fmt.Sprintf("the mailbox is locked by a session on node %s", res.Node),
			"free it with 'relayctl mailbox unlock'")
	}
	// EXISTS, STALE, OVER_QUOTA, and what a later version may say.
	return admin.Conflict(detail, next)
}

// inThisState is for what is asked rightly and can't be done as things are.
func inThisState(detail, next string) error {
	return &admin.Error{Status: http.StatusUnprocessableEntity, Title: admin.TitleState, Detail: detail, Next: next}
}

// do is change with the admin record filled in by fill.
func (o *Operator) do(ctx context.Context, by admin.By, kind spool.Kind,
	fill func(*pb.Admin) proto.Message) (*pb.Result, error) {
	adm, err := o.admin(by)
	if err != nil {
		return nil, err
	}
	return o.change(ctx, kind, fill(adm))
}

// toID reads the 16 octets of an id in a record.
func toID(b []byte) (id spool.ID, ok bool) {
	if len(b) != len(id) {
		return id, false
	}
	copy(id[:], b)
	return id, true
}

// idText is the text of an id in a record, empty where there is none.
func idText(b []byte) string {
	if id, ok := toID(b); ok {
		return id.String()
	}
	return ""
}

// idAt is the first id of a millisecond.
func idAt(t time.Time) (id spool.ID) {
	ms := t.UnixMilli()
	if ms <= 0 {
		return id
	}
	_ = id.SetTime(uint64(min(ms, int64(ulid.MaxTime()))))
	return id
}

// idAfter is the id behind id.
func idAfter(id spool.ID) spool.ID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// lastID is behind every id that is in use.
func lastID() (id spool.ID) {
	for i := range id {
		id[i] = 0xff
	}
	return id
}
