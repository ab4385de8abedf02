// Package edit carries out what operators change: it proposes their commands, each with who asked and why,
// has the audit log say what the record was and will be, and maps what became of a command to the API's errors.
package edit

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster"
	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/replica"
	"relay/smtp/printable"
)

// Editor proposes operators' commands at one node. Its methods may be called concurrently.
type Editor struct {
	node    string
	replica replica.Replica
	log     *zap.Logger
	// updating serialises changes that read a record and write it back whole.
	updating sync.Mutex
}

// New makes the editor of a node: its id is in the audit log.
func New(node string, r replica.Replica, log *zap.Logger) *Editor {
	return &Editor{node: node, replica: r, log: log}
}

// Admin makes the record that goes with an operator's command. Part names one
// of several commands of one request by its content: the spool applies a
// request once, and a request that is sent again may cut its work otherwise.
func (e *Editor) Admin(by admin.By, part ...[]byte) (*pb.Admin, error) {
	request := ulid.Make()
	if by.Request != "" {
		var err error
		if request, err = ulid.ParseStrict(by.Request); err != nil {
			return nil, admin.Invalid("the request id %q is not a ULID", printable.Text(by.Request, 64))
		}
	}
	adm := &pb.Admin{Who: printable.Text(by.Who, 255), Why: printable.Text(by.Why, 1024), Node: e.node,
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

// Change proposes an operator's command and waits until this node shows it. A
// Refusal comes back as an *admin.Error.
func (e *Editor) Change(ctx context.Context, kind spool.Kind, h proto.Message) (*pb.Result, error) {
	e.Annotate(h)
	res, err := replica.Propose(ctx, e.replica, kind, h)
	if err != nil {
		return nil, ProposalError(err)
	}
	if err := Refusal(res); err != nil {
		return res, err
	}
	return res, e.CaughtUp(ctx, res.Index)
}

// CaughtUp waits until this node's reads show what was applied at an index.
func (e *Editor) CaughtUp(ctx context.Context, index uint64) error {
	if err := e.replica.WaitApplied(ctx, index); err != nil {
		return ErrBehind()
	}
	return nil
}

func ErrBehind() error {
	return admin.Problem(http.StatusGatewayTimeout, "the change is made, but this node has not caught up with it yet",
		"read it again in a moment, or ask another node")
}

// Current brings this node's reads up to date before something is decided by
// them.
func (e *Editor) Current(ctx context.Context) error {
	if err := e.replica.Consistent(ctx); err != nil {
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

// Refusal maps what Apply said; nil where the command was carried out, now or
// when it came first. The texts of the spool hold their next step.
func Refusal(res *pb.Result) error {
	detail, next, _ := strings.Cut(res.Text, ": ")
	switch res.Code {
	case pb.Code_OK, pb.Code_DUPLICATE:
		return nil
	case pb.Code_MISSING:
		return admin.Missing(detail, next)
	case pb.Code_INVALID:
		// The form was checked before; Apply judges by what there is.
		return InThisState(detail, next)
	case pb.Code_BUSY:
		return admin.Conflict(fmt.Sprintf("the mailbox is locked by a session on node %s", res.Node),
			"free it with 'relayctl mailbox unlock'")
	}
	// EXISTS, STALE, OVER_QUOTA, and what a later version may say.
	return admin.Conflict(detail, cmp.Or(next, existsNext(detail)))
}

// existsNext is the next step for what was to be made and is there: Apply's text is part of
// cluster version 1 and has none.
func existsNext(detail string) string {
	kind, rest, _ := strings.Cut(detail, " ")
	name, ok := strings.CutSuffix(rest, " exists")
	switch {
	case ok && kind == "user":
		return fmt.Sprintf("'relayctl user show %s' shows it, 'relayctl user set' and 'passwd' change it", name)
	case ok && kind == "domain":
		return "'relayctl domain ls' shows it, 'relayctl domain set " + name + "' changes it"
	}
	return ""
}

// InThisState is for what is asked rightly and can't be done as things are.
func InThisState(detail, next string) error {
	return &admin.Error{Status: http.StatusUnprocessableEntity, Title: admin.TitleState, Detail: detail, Next: next}
}

// Do is change with the admin record filled in by fill.
func (e *Editor) Do(ctx context.Context, by admin.By, kind spool.Kind,
	fill func(*pb.Admin) proto.Message) (*pb.Result, error) {
	adm, err := e.Admin(by)
	if err != nil {
		return nil, err
	}
	return e.Change(ctx, kind, fill(adm))
}

// updateTries is how often a change is made anew on a record that somebody else has changed meanwhile.
const updateTries = 5

// Update changes a record that is written back whole. read finds the record in a view that shows all that was
// committed before the call, and changes it; its error ends the Update. write makes the command, which Apply
// refuses as STALE where somebody else has changed the record in between: then both are called once more. One
// Update runs at a time.
func (e *Editor) Update(ctx context.Context, by admin.By, kind spool.Kind, read func(spool.View) error,
	write func(*pb.Admin) proto.Message) error {
	e.updating.Lock()
	defer e.updating.Unlock()
	for try := 1; ; try++ {
		if err := e.Current(ctx); err != nil {
			return err
		}
		if err := e.replica.View(read); err != nil {
			return err
		}
		res, err := e.Do(ctx, by, kind, write)
		if res.GetCode() != pb.Code_STALE || try == updateTries {
			return err
		}
	}
}
