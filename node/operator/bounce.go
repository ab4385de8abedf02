package operator

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/operator/ids"
	"relay/node/plan"
	"relay/node/statelog"
	"relay/queue"
	"relay/queue/bounce"
	"relay/smtp/printable"
)

// Bounds of giving mail back.
const (
	returnRecipients = 200       // in one report
	returnOctets     = 128 << 10 // of reports in one command
	returnMost       = 240 << 10 // of one report, which must fit a command
)

// bounceAction is what one message gives back: some of its recipients, which one
// report names.
type bounceAction struct {
	id     spool.ID
	record *pb.Bouncing
	to     []string // addresses of record.Recipients
	counts bool     // counted here and not in another bounceAction of the same message
}

// returning lists what of a message is given back, in pieces that one report
// can name.
func (m *bulkAction) returning(one *waitingMail) (all []*bounceAction) {
	var r *bounceAction
	for i, to := range one.mail.Recipients {
		if !m.meant(to.Address) {
			continue
		}
		if r == nil || len(r.record.Recipients) == returnRecipients {
			r = &bounceAction{id: one.id, record: &pb.Bouncing{Id: one.id[:]}, counts: r == nil}
			all = append(all, r)
		}
		r.to = append(r.to, to.Address)
		r.record.Recipients = append(r.record.Recipients, one.n[i])
		r.record.Attempts = append(r.record.Attempts, to.Attempts)
	}
	return all
}

// giveBack ends what is to be given back and tells the senders. Reports are
// committed with the ends they tell of.
//
// queue bounce writes its reports here and commits each with the ends that it tells of; the state
// machine refuses those whose recipients changed meanwhile.
func (m *bulkAction) giveBack(ctx context.Context, back []*bounceAction) error {
	if m.what.DryRun {
		for _, r := range back {
			if r.counts {
				m.changed++
			}
		}
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(manageInFlight)
	var group []*bounceAction
	size := 0
	send := func() error {
		some := group
		group, size = nil, 0
		switch {
		case len(some) == 0:
		case !m.told.told: // the first that changes something leaves the audit line of all
			return m.bounce(ctx, some)
		default:
			g.Go(func() error { return m.bounce(ctx, some) })
		}
		return nil
	}
	for _, r := range back {
		if gctx.Err() != nil {
			break
		}
		written, err := m.written(r)
		if err != nil {
			return errors.Join(err, send(), g.Wait())
		}
		for _, r := range written {
			n := proto.Size(r.record)
			if size > 0 && size+n > returnOctets {
				if err := send(); err != nil {
					return errors.Join(err, g.Wait())
				}
			}
			group, size = append(group, r), size+n
		}
	}
	return errors.Join(send(), g.Wait())
}

// written is write in as many pieces as it takes for each report to fit a command:
// addresses and what the sender called them can be long.
func (m *bulkAction) written(r *bounceAction) ([]*bounceAction, error) {
	err := m.write(r)
	n := len(r.record.Recipients)
	if err != nil || n == 1 || proto.Size(r.record) <= returnMost {
		return []*bounceAction{r}, err
	}
	half := func(from, to int, counts bool) ([]*bounceAction, error) {
		return m.written(&bounceAction{id: r.id, counts: counts, to: r.to[from:to], record: &pb.Bouncing{
			Id: r.id[:], Recipients: r.record.Recipients[from:to], Attempts: r.record.Attempts[from:to],
		}})
	}
	first, err := half(0, n/2, r.counts)
	if err != nil {
		return nil, err
	}
	rest, err := half(n/2, n, false)
	return append(first, rest...), err
}

// write makes the report on what a message gives back. There is none where
// nobody may be told (RFC 5321 §4.5.5, RFC 3461 §4.1).
func (m *bulkAction) write(r *bounceAction) error {
	var about *pb.Message
	var failed []bounce.Recipient
	err := m.Replica.View(func(v spool.View) error {
		var ok bool
		var err error
		if about, ok, err = v.Message(r.id); err != nil || !ok {
			about = nil
			return err
		}
		for _, n := range r.record.Recipients {
			to, ok, err := v.Recipient(r.id, n)
			if err != nil {
				return err
			}
			if ok && (to.Notify == 0 || to.Notify&queue.NotifyFailure != 0) {
				one := bounce.Recipient{
					Address: to.Address, Original: to.Original, Addressed: to.Addressed,
					Action: bounce.Failed, Status: "5.7.1", Reply: m.word(), Last: m.Now(),
				}
				failed = append(failed, one.AsAddressed())
			}
		}
		return nil
	})
	if err != nil || about.GetSender() == "" || len(about.GetBounceOf()) > 0 || len(failed) == 0 {
		return err
	}
	ret := about.Ret
	if about.Requiretls {
		ret = "HDRS" // RFC 8689 §5
	}
	body, utf8 := bounce.Write(&bounce.Report{
		Kind: bounce.Failure, Template: plan.TemplateNow(m.Replica),
		Hostname: m.Hostname, ID: r.id.String(), To: about.Sender, EnvID: about.Envid,
		Arrived: time.UnixMilli(about.CreatedMs), Now: m.Now(), Recipients: failed, Ret: ret,
		UTF8: about.Smtputf8, Binary: about.Body == pb.Body_BODY_BINARYMIME, Size: int64(about.Size), Limit: plan.ReportLimit,
		Open: func() (io.ReadCloser, error) { return m.Replica.OpenBody(r.id, about.Chunks, nil) },
	})
	n := &queue.Notice{About: queue.ID(r.id), To: about.Sender, Body: body, UTF8: utf8}
	if r.record.Notice = plan.NewNotice(m.Replica, m.Node, n, about.Requiretls, m.Log); r.record.Notice != nil {
		r.record.Notice.Accept.Epoch = m.Replica.Epoch()
	}
	return nil
}

// word is what stands in the history and in the report.
func (m *bulkAction) word() string {
	if reason := printable.Text(m.what.Reason, 512); reason != "" {
		return reason
	}
	return "given back by the operator of the mail system"
}

// spare keeps an action on all from giving back the reports that it writes. Their
// ids come after those of what is meant, unless another node's clock is ahead.
func (m *bulkAction) spare(n *pb.Notice) {
	id, ok := ids.Of(n.GetAccept().GetMessage().GetId())
	if !ok || !m.what.All || id.Compare(m.end) >= 0 {
		return
	}
	if m.reports == nil {
		m.reports = map[spool.ID]bool{}
	}
	m.reports[id] = true
}

// bounce proposes one command. A message that changed while its report was written is
// left alone and named as refused.
func (m *bulkAction) bounce(ctx context.Context, group []*bounceAction) error {
	h := &pb.Manage{Action: pb.Action_BOUNCE, Reply: m.word()}
	content := [][]byte{[]byte(m.what.Action), []byte(h.Reply)}
	for _, r := range group {
		h.Bouncing = append(h.Bouncing, r.record)
		content = append(content, r.id[:])
		for i, n := range r.record.Recipients {
			content = append(content, binary.BigEndian.AppendUint64(nil, uint64(n)<<32|uint64(r.record.Attempts[i])))
		}
	}
	var err error
	if h.Admin, err = m.edit.Admin(m.by, content...); err != nil {
		return err
	}
	m.audited(h.Admin)
	res, err := m.edit.Change(ctx, spool.KindManage, h)
	if err != nil && !errors.Is(err, admin.ErrNotFound) {
		return err
	}
	if err == nil && !m.told.told {
		m.told.told = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range group {
		if err != nil || i < len(res.GetCodes()) && res.Codes[i] != pb.Code_OK {
			m.refuse(r.id.String(), "it was tried or changed just now: look at it, and give the command again")
			continue
		}
		if r.counts {
			m.changed++
		}
		statelog.LogManaged(m.Log, m.verb, r.id[:], r.to, m.by, zap.String("reply", h.Reply))
		if r.record.Notice != nil {
			m.spare(r.record.Notice)
			statelog.LogNotice(m.Log, r.record.Notice)
		}
	}
	return nil
}
