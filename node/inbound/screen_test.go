package inbound

import (
	"context"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/replica"
	"relay/node/replica/replicatest"
	"relay/node/verify"
	"relay/smtp"
)

// discard takes every command and keeps none.
type discard struct{ *replicatest.Fake }

func (discard) Propose(context.Context, spool.Frame) (*pb.Result, error) { return &pb.Result{}, nil }
func (discard) Until() time.Time                                         { return time.Now().Add(time.Hour) }

// nowhere is a DNS without names.
type nowhere struct{}

func (nowhere) TXT(context.Context, string) ([]string, error)   { return nil, verify.ErrNotFound }
func (nowhere) Hosts(context.Context, string) ([]string, error) { return nil, verify.ErrNotFound }
func (nowhere) Addresses(context.Context, string) ([]netip.Addr, error) {
	return nil, verify.ErrNotFound
}
func (nowhere) IPv4(context.Context, string) ([]netip.Addr, error) { return nil, verify.ErrNotFound }
func (nowhere) Names(context.Context, netip.Addr) ([]string, error) {
	return nil, verify.ErrNotFound
}

// BenchmarkIntake takes messages of 4 KiB in, as far as this package goes: what
// screening costs those whom it does not concern, and those whom it does.
func BenchmarkIntake(b *testing.B) {
	w := newWorld(b)
	r := discard{w.Fake}
	log := zap.NewNop()
	screening := &screen{
		replica: r, id: "mx.example.test", log: log,
		verifier: &verify.Verifier{Resolver: nowhere{}, Timeout: time.Second, Draw: func(int) int { return 0 }},
		lists:    verify.NewLists(nowhere{}, []verify.List{{Zone: "bl.example", Action: verify.Refuse}}, time.Second),
	}
	message := "From: a@far.example\r\nSubject: s\r\nMessage-ID: <a@b>\r\n\r\n" + strings.Repeat("text of a line\r\n", 250)
	for _, c := range []struct {
		name    string
		screen  *screen
		trusted bool
	}{
		{"trusted, no screen", nil, true}, {"trusted", screening, true}, {"stranger, no screen", nil, false},
		{"stranger", screening, false},
	} {
		b.Run(c.name, func(b *testing.B) {
			rec := &receiver{
				replica: r, mail: newMailer(r, nil, "n1", "mx.example.test", 50, log), room: spacious{},
				ready: func(context.Context) error { return nil }, screen: c.screen, log: log,
				confirm: replica.NewConfirmer(r, log), throttle: w.throttle,
			}
			peer := &smtp.Peer{
				Remote: netip.MustParseAddrPort("192.0.2.1:25"), Helo: "far.example", ESMTP: true, Trusted: c.trusted,
			}
			ctx := context.Background()
			s, err := rec.NewSession(ctx, peer)
			require.NoError(b, err)
			defer func() { _ = s.Close() }()
			b.ReportAllocs()
			for b.Loop() {
				err := s.Mail(ctx, "a@far.example", nil)
				if err == nil {
					err = s.Rcpt(ctx, "alice@example.test", nil)
				}
				if err == nil {
					_, err = s.Data(ctx, strings.NewReader(message))
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A node leaves one processor to what is not the work on signatures.
func TestSignaturesLeaveOneProcessor(t *testing.T) {
	s, err := newScreen(&Config{Log: zap.NewNop()})
	require.NoError(t, err)
	require.Equal(t, max(1, runtime.GOMAXPROCS(0)-1), cap(s.verifier.Slots))
}

func TestCleanSection(t *testing.T) {
	for text, want := range map[string]bool{
		"Subject: x\r\n\r\n\x00\r\n\n\r":                  true,
		"Subject: x\r\n folded\r\n\r\nbody":               true,
		"\r\n\r\r\n":                                      true,
		"Subject: x\rAuthentication-Results: y\r\n\r\n":   false,
		"Subject: x\nAuthentication-Results: y\r\n\r\n":   false,
		"Subject: x\r\nFrom: a@b\n\nbody\r\n\r\n":         false,
		"Subject: x\r\nFrom\x00: a@b\r\n\r\n":             false,
		"\nSubject: x\r\n\r\n":                            false,
		"Subject: x\r\n\r":                                false,
		"Subject: x\r\nno end, and then something \r raw": false,
	} {
		require.Equal(t, want, cleanSection([]byte(text)), "%q", text)
	}
}
