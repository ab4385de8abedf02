package operator

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/mailheader"
	"relay/node/operator/edit"
	"relay/node/operator/ids"
	"relay/node/replica"
	"relay/node/statelog"
)

// maxOld is how many messages one command imports: Apply holds up all others.
const maxOld = 400

// importRun is one batch of an import. Pending messages are proposed as one command
// when no more fit, and while it is under way those of the next are read.
//
// # Imports (2026-11-29)
//
// A batch of old mail is one request whose parts are the messages; the node makes commands of up to
// 264 KiB and 400 messages of them, one after the other, since a mailbox has the order of its source.
// A message's key is made of box, digest and number: how many equal ones came before it in the source,
// which only the client sees. Ids are made of request and key, so that a batch whose answer got lost
// is told it was the one, and every message is counted as what it is. A message that this replica
// knows already is not proposed; Apply asks once more. The first message that does not fit (quota,
// disk, no majority) ends the batch, and all before it is in. Rejected: proposals side by side (no
// order), a session that a batch belongs to (state to lose), a stream with an answer for each message
// (proxies hold those back).
//
// Three nodes on two cores (2026-12-01, load 12 to 18 beside them), 50,000 messages of 1 KB: 3,600 to
// 6,800 a second, 4,900 with a leader killed meanwhile (TestImportInterrupted, RELAY_E2E_IMPORT=50000),
// and 15,000 to 24,000 of known ones. On a busier disk it was 1,400 to 2,250: commits are waited for,
// one after the other. One a request made 37 to 185.
type importRun struct {
	*Operator
	adm     *pb.Admin
	user    string
	box     uint64
	account *pb.Account
	olds    spool.Olds
	o       admin.ImportOptions
	result  *admin.ImportResult
	in      *bufio.Reader // of all messages

	pending []*pb.Old
	bodies  [][]byte
	places  []int   // of pending, in result.Messages
	size    int     // of the frame
	under   *flight // nil: no command is under way
	index   uint64  // of the last command

	messages, bytes uint64          // in the mailbox, for a dry run
	named           map[string]bool // unique ids that a dry run would give
}

// ImportMail implements admin.Content.
func (o *Operator) ImportMail(ctx context.Context, by admin.By, user string, opt admin.ImportOptions,
	next func() (*admin.OldMessage, error)) (*admin.ImportResult, error) {
	im, err := o.importInto(ctx, by, user, opt)
	if err != nil {
		return nil, err
	}
	err = im.run(ctx, next)
	if last := im.land(); err == nil {
		err = last
	}
	if err != nil && len(im.result.Messages) == 0 {
		return nil, err
	}
	if err != nil {
		if !errors.As(err, &im.result.Stopped) {
			o.Log.Error("an import failed", zap.String("user", im.user), zap.Error(err))
			im.result.Stopped = admin.Problem(http.StatusInternalServerError,
				"node "+o.Node+" failed", "its log says why")
		}
	}
	if im.index > 0 {
		_ = o.edit.CaughtUp(ctx, im.index) // the messages are stored; a node that lags shows them later
	}
	return im.result, nil
}

// importInto looks up the mailbox.
func (o *Operator) importInto(ctx context.Context, by admin.By, user string,
	opt admin.ImportOptions) (*importRun, error) {
	user, err := o.Address(user)
	if err != nil {
		return nil, err
	}
	adm, err := o.edit.Admin(by)
	if err != nil {
		return nil, err
	}
	im := &importRun{
		Operator: o, adm: adm, user: user, o: opt, named: map[string]bool{}, in: bufio.NewReaderSize(nil, 32<<10),
		result: &admin.ImportResult{Messages: []admin.ImportedMessage{}, Line: opt.Line},
	}
	return im, o.certain(ctx, func(v spool.View) error {
		record, _, err := v.Cluster()
		if err != nil {
			return err
		}
		if spool.VersionOf(record) < 2 {
			return admin.Conflict("old mail can be imported from cluster version 2 on",
				"raise it with 'relayctl cluster upgrade'")
		}
		account, box, err := openBox(v, user)
		im.account, im.box, im.messages, im.bytes = account, box.GetBox(), box.GetMessages(), box.GetBytes()
		if err == nil {
			im.olds, err = v.Olds()
		}
		return err
	})
}

func (im *importRun) run(ctx context.Context, next func() (*admin.OldMessage, error)) error {
	for {
		m, err := next()
		switch {
		case errors.Is(err, io.EOF):
			return im.flush(ctx)
		case err == nil:
			err = im.take(ctx, m)
		default:
			err = errors.Join(im.flush(ctx), err)
		}
		if err != nil {
			return err
		}
	}
}

// take reads one message and makes it pending, or deals with it at once.
func (im *importRun) take(ctx context.Context, m *admin.OldMessage) error {
	im.in.Reset(m.Content)
	one := &importing{Operator: im.Operator, digest: sha256.New(), body: &crlf{in: im.in}, buf: make([]byte, 0, 4<<10)}
	if err := one.fill(); err != nil {
		return errors.Join(im.flush(ctx), im.invalid("can not be read: %v", err))
	}
	if len(one.buf) == 0 {
		return errors.Join(im.flush(ctx), im.invalid("is empty"))
	}
	if one.done && len(one.buf) <= spool.MaxInline {
		return im.small(ctx, m, one)
	}
	return im.large(ctx, m, one)
}

// invalid is what is wrong with the message at hand.
func (im *importRun) invalid(format string, args ...any) error {
	return admin.Invalid("message %d of the batch %s", len(im.result.Messages)+1, fmt.Sprintf(format, args...))
}

// small deals with a message that rides in the command.
func (im *importRun) small(ctx context.Context, m *admin.OldMessage, one *importing) error {
	sum := sha256.Sum256(one.buf)
	old, done, err := im.begin(m, one, sum[:], uint64(len(one.buf)))
	if err != nil {
		return errors.Join(im.flush(ctx), err)
	}
	if done {
		return nil
	}
	size := proto.Size(old) + 8 + len(one.buf)
	if len(im.pending) == maxOld || im.size+size > spool.MaxFrame-4<<10 {
		if err := im.launch(ctx); err != nil {
			return err
		}
	}
	im.add(old, one.buf)
	im.size += size
	return nil
}

func (im *importRun) add(old *pb.Old, body []byte) {
	im.pending, im.bodies = append(im.pending, old), append(im.bodies, body)
	im.places = append(im.places, len(im.result.Messages))
	id, _ := ids.Of(old.Accept.Message.Id)
	im.result.Messages = append(im.result.Messages, admin.ImportedMessage{ID: id.String(), Outcome: admin.ImportStored})
}

// large sends a message ahead in chunks, behind what is pending.
func (im *importRun) large(ctx context.Context, m *admin.OldMessage, one *importing) error {
	if err := im.flush(ctx); err != nil {
		return err
	}
	if m.Digest == nil {
		return im.invalid("is 256 KiB or more and comes without its digest")
	}
	old, done, err := im.begin(m, one, m.Digest, 0)
	if done || err != nil {
		return err
	}
	if err := im.room(); err != nil {
		return err
	}
	if err := one.ahead(ctx); err != nil {
		one.abort(ctx)
		return edit.ProposalError(err)
	}
	sum := one.digest.Sum(nil)
	if string(sum) != string(m.Digest) {
		one.abort(ctx)
		return im.invalid("is not what its digest says")
	}
	msg := old.Accept.Message
	msg.Size, msg.Chunks, old.Accept.Inline = one.size, one.chunks, false
	im.add(old, nil)
	err = im.flush(ctx)
	if err != nil && !errors.Is(err, admin.ErrUnknown) {
		one.abort(ctx)
	}
	return err
}

// begin makes the record of a message. done: it is dealt with, and is no news.
func (im *importRun) begin(m *admin.OldMessage, one *importing, digest []byte, size uint64) (*pb.Old, bool, error) {
	key := im.key(digest, m.Number)
	one.id = im.idOf(key)
	known, err := im.known(key, one.id)
	switch {
	case err != nil:
		return nil, false, err
	case known != "":
		im.result.Messages = append(im.result.Messages, known.message(one.id))
		return nil, true, nil
	case im.o.DryRun:
		return nil, true, im.try(m, one, size)
	}
	one.head = mailheader.Parse(one.buf)
	received := m.Received
	if received.IsZero() {
		received = admin.At(im.Now())
	}
	a := one.accept(im.adm, im.user, received)
	a.Inline, a.Message.Size, a.Message.Digest = true, size, digest
	a.Drops[0].Uidl = m.UIDL
	if !im.o.OverQuota {
		a.Drops[0].QuotaBytes, a.Drops[0].QuotaMessages = im.account.QuotaBytes, im.account.QuotaMessages
	}
	return &pb.Old{Key: key, Accept: a}, false, nil
}

// outcome is what is known of a message before it is proposed; empty: nothing.
type outcome string

func (o outcome) message(id spool.ID) admin.ImportedMessage {
	if string(o) != admin.ImportStored {
		return admin.ImportedMessage{Outcome: string(o)}
	}
	return admin.ImportedMessage{ID: id.String(), Outcome: string(o)}
}

// known asks this replica; Apply asks once more.
func (im *importRun) known(key []byte, id spool.ID) (o outcome, err error) {
	return o, im.Replica.View(func(v spool.View) error {
		first, err := v.Old(im.olds, key)
		switch {
		case err != nil || first == nil:
		case string(first) == string(id[:]):
			o = admin.ImportStored // by this request, whose answer got lost
		default:
			o = admin.ImportKnown
		}
		return err
	})
}

// key is what makes a message of a repeated import the same: the mailbox, the
// octets, and how many like it came before.
func (im *importRun) key(digest []byte, number uint32) []byte {
	b := binary.BigEndian.AppendUint64(nil, im.box)
	b = binary.BigEndian.AppendUint32(append(b, digest...), number)
	sum := sha256.Sum256(b)
	return sum[:16]
}

// idOf makes the id of request and key, so that a request that comes again meets
// the messages it made.
func (im *importRun) idOf(key []byte) spool.ID {
	id := replica.NewID(im.Now())
	var request ulid.ULID
	copy(request[:], im.adm.Request)
	if im.Now().Sub(ids.Time(request)).Abs() <= time.Hour { // a strange clock must not sort the message far away
		_ = id.SetTime(request.Time())
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %x", request, key))
	_ = id.SetEntropy(sum[:10])
	return id
}

// try does what a dry run does with a message that would go in. size is 0 where it
// is not at hand yet.
func (im *importRun) try(m *admin.OldMessage, one *importing, size uint64) error {
	if size == 0 {
		n, err := io.Copy(io.Discard, one.body)
		if err != nil {
			return err
		}
		size = uint64(n) + uint64(len(one.buf))
	}
	got := admin.ImportedMessage{Outcome: admin.ImportStored}
	if m.UIDL != "" {
		taken := im.named[m.UIDL] || !spool.MayUidl(im.box, m.UIDL)
		err := im.Replica.View(func(v spool.View) error {
			_, there, err := v.Uidl(im.box, m.UIDL)
			taken = taken || there
			return err
		})
		if err != nil {
			return err
		}
		if taken {
			got.Outcome = admin.ImportTaken
		}
		im.named[m.UIDL] = true
	}
	a := im.account
	if got.Outcome == admin.ImportStored {
		full := a.QuotaMessages > 0 && im.messages >= a.QuotaMessages || a.QuotaBytes > 0 && im.bytes+size > a.QuotaBytes
		if full && !im.o.OverQuota {
			return im.overQuota()
		}
		im.messages, im.bytes = im.messages+1, im.bytes+size
	}
	im.result.Messages = append(im.result.Messages, got)
	return nil
}

func (im *importRun) overQuota() error {
	return admin.Conflict(
		"mailbox "+im.user+" is full: the quota leaves no room for the next message",
		"raise it with 'relayctl user set "+im.user+" --quota', or go on with --over-quota")
}

// flight is a command under way.
type flight struct {
	pending []*pb.Old
	places  []int
	done    chan struct{} // closed when res and err are there
	res     *pb.Result
	err     error
}

// flush proposes what is pending and returns when it is applied. After an error the
// result ends before the first message that did not go in.
func (im *importRun) flush(ctx context.Context) error {
	if err := im.launch(ctx); err != nil {
		return err
	}
	return im.land()
}

// launch proposes what is pending, when the command before it has been applied.
// Errors are those of flush.
func (im *importRun) launch(ctx context.Context) error {
	if err := im.land(); err != nil || len(im.pending) == 0 {
		return err
	}
	f := &flight{pending: im.pending, places: im.places, done: make(chan struct{})}
	bodies := im.bodies
	im.pending, im.places, im.bodies, im.size = nil, nil, nil, 0
	if err := im.room(); err != nil {
		return im.cut(f, 0, err)
	}
	h := &pb.Import{Admin: im.adm, Messages: f.pending, Line: im.result.Line, Mailbox: im.user}
	frame, err := spool.Encode(spool.KindImport, h, bodies...)
	if err != nil {
		return im.cut(f, 0, err)
	}
	im.under = f
	go func() {
		defer close(f.done)
		f.res, f.err = im.Replica.Propose(ctx, frame)
	}()
	return nil
}

// cut ends the result before a message of a command that did not go in. Pending
// messages stand behind it and are given up.
func (im *importRun) cut(f *flight, at int, err error) error {
	im.result.Messages = im.result.Messages[:f.places[at]]
	im.pending, im.places, im.bodies, im.size = nil, nil, nil, 0
	return err
}

// land waits for the command under way, and notes what became of its messages.
func (im *importRun) land() error {
	f := im.under
	if f == nil {
		return nil
	}
	<-f.done
	im.under = nil
	res := f.res
	if f.err != nil {
		return im.cut(f, 0, edit.ProposalError(f.err))
	}
	im.index, im.result.Line = res.Index, res.Token
	for i := range f.pending {
		if i >= len(res.Codes) {
			return im.cut(f, i, edit.Refusal(res))
		}
		one := &im.result.Messages[f.places[i]]
		switch res.Codes[i] {
		case pb.Code_OK:
			statelog.LogAccepted(im.Log, f.pending[i].Accept, []string{im.user})
		case pb.Code_DUPLICATE:
			*one = admin.ImportedMessage{Outcome: admin.ImportKnown}
		case pb.Code_EXISTS:
			*one = admin.ImportedMessage{Outcome: admin.ImportTaken}
		case pb.Code_OVER_QUOTA:
			return im.cut(f, i, im.overQuota())
		default:
			return im.cut(f, i, edit.Refusal(&pb.Result{Code: res.Codes[i], Text: res.Text}))
		}
	}
	return nil
}
