package inbound

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/milter"
	"relay/node/replica/replicatest"
	"relay/node/verify"
	"relay/smtp"
)

var update = flag.Bool("update", false, "rewrite testdata/intake.txt")

// stopped is a replica whose clock stands still.
type stopped struct{ *world }

func (stopped) Now() time.Time { return replicatest.Start }

// editor is a content filter that does what the subject of a message says.
type editor struct {
	wire.NoOpMilter
	subject string
}

func (e *editor) Header(name, value string, _ *wire.Modifier) (wire.Response, error) {
	if name == "Subject" {
		e.subject = value
	}
	if value == "early" {
		return wire.RespDiscard, nil
	}
	return wire.RespContinue, nil
}

func (e *editor) Body(m *wire.Modifier) (wire.Response, error) {
	switch e.subject {
	case "reject":
		return wire.RespReject, nil
	case "discard":
		return wire.RespDiscard, nil
	case "pass":
		return wire.RespContinue, nil
	case "other":
		return wire.RespContinue, m.ReplaceBody([]byte("another\ntext\n"))
	case "move":
		return wire.RespContinue, errors.Join(m.DeleteRecipient("<alice@example.test>"), m.AddRecipient("<bob@example.test>"))
	}
	return wire.RespContinue, errors.Join(m.AddHeader("X-Seen", "yes"), m.ChangeHeader(1, "Subject", "changed"),
		m.InsertHeader(0, "X-Top", "yes"))
}

// edited starts an editor.
func edited(t *testing.T) milter.Chain {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &wire.Server{
		NewMilter: func() wire.Milter { return &editor{} },
		Actions:   wire.OptAddHeader | wire.OptChangeBody | wire.OptAddRcpt | wire.OptRemoveRcpt | wire.OptChangeHeader,
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = l.Close(); <-done })
	f, err := milter.New(milter.Options{
		Address: "inet:" + l.Addr().String(), Timeout: time.Minute, Log: zap.NewNop(),
	})
	require.NoError(t, err)
	return milter.Chain{f}
}

// form is a message and how it comes.
type form struct {
	name   string
	header string // without the empty line
	size   int    // of the text behind it
	end    string // of the text
	policy pb.AuthPolicy
	to     string // alice where it is empty
	user   string
	filter bool
	binary bool

	trusted bool
}

func forms() (all []form) {
	const head = "From: a@far.example\r\nSubject: s\r\nMessage-ID: <a@b>\r\n\r\n"
	none, tag := pb.AuthPolicy_AUTH_NONE, pb.AuthPolicy_AUTH_TAG
	about := func(subject string) string { return strings.Replace(head, "Subject: s", "Subject: "+subject, 1) }
	claims := "Authentication-Results: mx.example.test; spf=pass\r\n" + head
	long := strings.Repeat("X-Filler: "+strings.Repeat("x", 990)+"\r\n", 150) + head
	endless := strings.Repeat("X: y\r\n", 60<<10)
	always := []form{
		{name: "plain", header: head, policy: none}, {name: "tagged", header: head, policy: tag},
		{name: "of a list", header: head, to: "list@example.test", policy: none},
		{name: "of a list, tagged", header: head, to: "list@example.test", policy: tag},
		{name: "of a large list", header: head, to: "many@example.test", policy: none},
		{name: "without an empty line", header: "Subject: s\r\n", policy: tag},
		{name: "submitted without fields", header: "Subject: s\r\n\r\n", user: "alice"},
		{name: "filter: pass", header: about("pass"), filter: true, policy: none},
		{name: "filter: edit", header: about("edit"), filter: true, policy: none},
		{name: "filter: edit, tagged", header: about("edit"), filter: true, policy: tag},
		{name: "filter: other text", header: about("other"), filter: true, policy: none},
		{name: "filter: move", header: about("move"), filter: true, policy: none},
		{name: "filter: move, list", header: about("move"), filter: true, to: "list@example.test", policy: tag},
		{name: "filter: discard", header: about("discard"), filter: true, policy: tag},
	}
	ends := []form{
		{name: "with our field", header: claims, policy: tag}, {name: "without a header", policy: tag},
		{name: "unended", header: head, end: "x", policy: tag}, {name: "long header", header: long, policy: tag},
		{name: "long header, filtered", header: long, filter: true, policy: none},
		{name: "endless header", header: endless, policy: none},
		{name: "endless header, tagged", header: endless, policy: tag},
		{name: "endless header, filtered", header: endless, filter: true, policy: none},
		{name: "endless header, submitted", header: endless, user: "alice"},
		{name: "endless header, trusted", header: endless, trusted: true},
		{name: "bare CR", header: "Subject: a\rb\r\n\r\n", policy: tag, binary: true},
		{name: "filter: reject", header: about("reject"), filter: true, policy: tag},
		{name: "filter: discard early", header: about("early"), filter: true, policy: tag},
		{name: "loop", header: "Delivered-To: alice@example.test\r\n" + head, policy: tag},
	}
	add := func(name string, size int, forms []form) {
		for _, f := range forms {
			f.name, f.size = name+", "+f.name, size
			all = append(all, f)
		}
	}
	add("small", 1000, slices.Concat(always, ends))
	add("nearly a chunk", spool.MaxInline-400, always)
	add("large", 600<<10, slices.Concat(always, ends))
	return all
}

// TestFormsOfIntake: what goes into the log for each form of a message, and in what
// parts, is what testdata/intake.txt says. A digest is of the octets in the order in
// which they went.
func TestFormsOfIntake(t *testing.T) {
	filters := edited(t)
	var got strings.Builder
	for _, f := range forms() {
		fmt.Fprintf(&got, "%s\n", f.name)
		for _, line := range f.play(t, filters) {
			fmt.Fprintf(&got, "\t%s\n", strings.ReplaceAll(line, filters[0].Address(), "FILTER"))
		}
	}
	const golden = "testdata/intake.txt"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), got.String())
}

// play hands the message in, and says what came of it.
func (f form) play(t *testing.T, filters milter.Chain) []string {
	w := newWorld(t)
	w.Put(&pb.Account{Address: "bob@example.test"}, true)
	w.Must(spool.KindPutAlias, &pb.PutAlias{Alias: &pb.Alias{
		Address: "list@example.test", Targets: []string{"alice", "x@far.test"}, Owner: "owner@far.test",
	}})
	w.Must(spool.KindPutDomain, &pb.PutDomain{Domain: &pb.Domain{Name: "example.test", AuthPolicy: f.policy}})
	var many []string
	for i := range 400 {
		many = append(many, fmt.Sprintf("%0200d@far.test", i))
	}
	if f.to == "many@example.test" {
		w.Must(spool.KindPutAlias, &pb.PutAlias{Alias: &pb.Alias{Address: f.to, Targets: many}})
	}
	r, log := stopped{w}, zap.NewNop()
	rec := &receiver{
		replica: r, mail: newMailer(r, nil, "n1", "mx.example.test", 50, log), room: spacious{}, logins: w.logins,
		ready: func(context.Context) error { return nil }, log: log, confirm: w.confirm, throttle: w.throttle,
		screen: &screen{
			replica: r, id: "mx.example.test", log: log, lists: verify.NewLists(nowhere{}, nil, time.Minute),
			verifier: &verify.Verifier{
				Resolver: nowhere{}, Timeout: time.Minute, Draw: func(int) int { return 0 }, Slots: make(chan struct{}, 1),
			},
		},
	}
	if f.filter {
		rec.filters = filters
	}
	s, err := rec.NewSession(t.Context(), &smtp.Peer{
		Remote: home, Helo: "far.example", ESMTP: true, User: f.user, Trusted: f.trusted,
	})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	from, to := "a@far.example", "alice@example.test"
	if f.user != "" {
		from = "alice@example.test"
	}
	if f.to != "" {
		to = f.to
	}
	options := &smtp.MailOptions{}
	if f.binary {
		options.Body = smtp.BodyBinaryMIME
	}
	require.NoError(t, s.Mail(t.Context(), from, options))
	require.NoError(t, s.Rcpt(t.Context(), to, nil))
	before := len(w.Frames)
	text := f.header + strings.Repeat("text of a line\r\n", f.size/16) + f.end
	_, err = s.Data(t.Context(), strings.NewReader(text))
	return append([]string{answer(err)}, traffic(t, w.Frames[before:])...)
}

// answer is a reply with its text.
func answer(err error) string {
	if err == nil {
		return "250"
	}
	return err.Error()
}

// traffic describes commands: chunks by number, each with its copies, and what claims
// them or gives them up.
func traffic(t *testing.T, frames []spool.Frame) (lines []string) {
	parts := map[string]map[uint32][]byte{} // by id
	var chunks []string
	for _, frame := range frames {
		c, err := spool.Decode(frame)
		require.NoError(t, err)
		switch h := c.Header.(type) {
		case *pb.Chunk:
			if parts[string(h.Id)] == nil {
				parts[string(h.Id)] = map[uint32][]byte{}
			}
			parts[string(h.Id)][h.Seq] = c.Body
			chunks = append(chunks, fmt.Sprintf("Chunk %d: %d octets", h.Seq, len(c.Body)))
		case *pb.Accept:
			if h.Inline {
				parts[string(h.Message.Id)] = map[uint32][]byte{0: c.Body}
			}
			lines = append(lines, accepted(t, h, parts)...)
		case *pb.Discard:
			lines = append(lines, fmt.Sprintf("Discard: %d octets of %d, by %s: %s", h.Message.Size, len(h.Bodies), h.By,
				h.Detail))
		case *pb.Abort:
			lines = append(lines, "Abort")
		default:
			lines = append(lines, c.Kind.String())
		}
	}
	slices.Sort(chunks)
	return append(chunks, lines...)
}

// accepted describes an Accept and its copies, and checks their digests.
func accepted(t *testing.T, h *pb.Accept, parts map[string]map[uint32][]byte) (lines []string) {
	for _, one := range append([]*pb.Accept{h}, h.Copies...) {
		m := one.Message
		var body []byte
		from := m.Id
		if h.Inline {
			from = h.Message.Id
		}
		for seq := range m.Chunks {
			body = append(body, parts[string(from)][seq]...)
		}
		require.Len(t, body, int(m.Size))
		sum := sha256.Sum256(slices.Concat(body[m.DigestTop:], body[:m.DigestTop]))
		require.Equal(t, sum[:], m.Digest)
		id := spool.ID(m.Id).String()
		body = bytes.ReplaceAll(body, []byte(spool.ID(h.Message.Id).String()), []byte("ID"))
		body = bytes.ReplaceAll(body, []byte(strings.ToLower(id)), []byte("id"))
		top := body[:min(len(body), 1+bytes.Index(append(body, "\r\n\r\n"...), []byte("\r\n\r\n")))]
		lines = append(lines, fmt.Sprintf("Accept of %q: inline %t, %d chunks, %d octets, top %d, unended %t, "+
			"recipients %d, drops %d, notices %d, sum %.8x, %s", m.Sender, one.Inline, m.Chunks, m.Size, m.DigestTop, m.Unended,
			len(one.Recipients), len(one.Drops), len(one.Notices), sha256.Sum256(body),
			strings.ReplaceAll(one.Detail, spool.ID(h.Message.Id).String(), "ID")))
		if len(body) < 4096 {
			for line := range strings.Lines(string(top)) {
				lines = append(lines, "  "+strings.TrimRight(line, "\r\n"))
			}
		}
	}
	return lines
}
