package node

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

// operator meets every port of the admin API over the replicated spool: what
// it shows it reads from this node's state, what it changes it proposes, and
// what only one node knows (what is being tried, free space) it asks that node
// for. Its methods may be called concurrently. The fields are set before the
// first call and never change.
type operator struct {
	node     string // this node's id
	hostname string // in the reports that it writes
	replica  replica.Replica
	members  membership
	log      *zap.Logger
	now      func() time.Time
	// hashPassword makes the stored form of a new password.
	hashPassword func(password string) (string, error)
	// active lists the recipients that this node is trying now, and why says
	// what the queue manager waits for with one.
	active func() []queue.Ref
	why    func(queue.Ref) string
	// submit takes a message in as a trusted client's; nil: not offered.
	submit func(ctx context.Context, sender string, recipients []string, message io.Reader,
		by admin.By) (*admin.Receipt, error)
	// full measures whether the disk here has room for nothing more; nil: it has.
	full func() bool
	// vitals tells what only this node knows of itself.
	vitals func() vitals

	peers peerCache
	// edit serialises changes that read a record and write it back whole.
	edit sync.Mutex
}

var (
	_ admin.Cluster   = (*operator)(nil)
	_ admin.Domains   = (*operator)(nil)
	_ admin.Users     = (*operator)(nil)
	_ admin.Aliases   = (*operator)(nil)
	_ admin.Routes    = (*operator)(nil)
	_ admin.Policy    = (*operator)(nil)
	_ admin.Queue     = (*operator)(nil)
	_ admin.History   = (*operator)(nil)
	_ admin.Mailboxes = (*operator)(nil)
	_ admin.Content   = (*operator)(nil)
	_ admin.Mail      = (*operator)(nil)
	_ admin.Auditor   = (*operator)(nil)
)

// ports hands the operator to the admin server.
func (o *operator) ports() admin.Ports {
	return admin.Ports{
		Cluster: o, Domains: o, Users: o, Aliases: o, Signers: o, Routes: o, Policy: o, Queue: o,
		History: o, Mailboxes: o, Content: o, Mail: o, Audit: o,
	}
}

// admin makes the record that goes with an operator's command. Part names one
// of several commands of one request by its content: the spool applies a
// request once, and a request that is sent again may cut its work otherwise.
func (o *operator) admin(by admin.By, part ...[]byte) (*pb.Admin, error) {
	request := ulid.Make()
	if by.Request != "" {
		var err error
		if request, err = ulid.ParseStrict(by.Request); err != nil {
			return nil, admin.Invalid("the request id %q is not a ULID", printable.Text(by.Request, 64))
		}
	}
	adm := &pb.Admin{Who: printable.Text(by.Who, 255), Why: printable.Text(by.Why, 1024), Node: o.node,
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
func (o *operator) change(ctx context.Context, kind spool.Kind, h proto.Message) (*pb.Result, error) {
	o.annotate(h)
	res, err := replica.Propose(ctx, o.replica, kind, h)
	if err != nil {
		return nil, proposalError(err)
	}
	if err := refusal(res); err != nil {
		return res, err
	}
	return res, o.caughtUp(ctx, res.Index)
}

// caughtUp waits until this node's reads show what was applied at an index.
func (o *operator) caughtUp(ctx context.Context, index uint64) error {
	if err := o.replica.WaitApplied(ctx, index); err != nil {
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
func (o *operator) current(ctx context.Context) error {
	if err := o.replica.Consistent(ctx); err != nil {
		if errors.Is(err, cluster.ErrUnknown) {
			// Nothing was proposed, so nothing can have changed.
			err = cluster.ErrUnavailable
		}
		return proposalError(err)
	}
	return nil
}

// proposalError maps how a proposal can end without a result.
func proposalError(err error) error {
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
		return admin.Problem(http.StatusUnprocessableEntity, detail, next)
	case pb.Code_BUSY:
		return admin.Conflict(fmt.Sprintf("the mailbox is locked by a session on node %s", res.Node),
			"free it with 'relayctl mailbox unlock'")
	}
	// EXISTS, STALE, OVER_QUOTA, and what a later version may say.
	return admin.Conflict(detail, next)
}

// do is change with the admin record filled in by fill.
func (o *operator) do(ctx context.Context, by admin.By, kind spool.Kind,
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
