package inbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/smtp"
)

// busy is a replica where each command takes a second, and counts those on their way.
type busy struct {
	*world
	mu         sync.Mutex
	under, max int // commands
	octets     int // of them
}

func (b *busy) Propose(ctx context.Context, f spool.Frame) (*pb.Result, error) {
	b.count(1, len(f))
	time.Sleep(time.Second)
	b.count(-1, -len(f))
	return b.world.Propose(ctx, f)
}

func (b *busy) count(commands, octets int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.under, b.octets = b.under+commands, b.octets+octets
	b.max = max(b.max, b.under)
}

// counted is a message whose octets have a budget. It comes in lines that wait for the
// commands which are to be on their way by then.
type counted struct {
	io.Reader
	t    *testing.T
	rep  *busy
	room bool
	held int
	most int
}

func (c *counted) Holds(octets int) bool {
	c.held, c.most = octets, max(c.most, octets)
	return c.room
}

func (c *counted) Read(p []byte) (int, error) {
	synctest.Wait()
	c.rep.mu.Lock()
	defer c.rep.mu.Unlock()
	require.GreaterOrEqual(c.t, c.held, c.rep.octets, "what is on its way is not told")
	return c.Reader.Read(p)
}

// The octets of commands on their way count as held like those of the buffers, and where
// there is little room a message has one on its way at a time.
func TestChunksOnTheirWayAreCounted(t *testing.T) {
	const size = 3 << 20
	for name, c := range map[string]struct{ room bool }{
		"room": {room: true}, "no room": {},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			text := "Subject: x\r\n\r\n" + strings.Repeat("text of a line\r\n", size/16)
			synctest.Test(t, func(t *testing.T) {
				r := &busy{world: w}
				rec := &receiver{
					replica: r, mail: newMailer(r, nil, "n1", "mx.example.test", 50, zap.NewNop()), room: spacious{},
					ready: func(context.Context) error { return nil }, log: zap.NewNop(), confirm: w.confirm, throttle: w.throttle,
				}
				s, err := rec.NewSession(t.Context(), &smtp.Peer{Remote: home, Helo: "far.example", ESMTP: true})
				require.NoError(t, err)
				require.NoError(t, s.Mail(t.Context(), "a@far.example", nil))
				require.NoError(t, s.Rcpt(t.Context(), "alice@example.test", nil))
				body := &counted{Reader: strings.NewReader(text), t: t, rep: r, room: c.room}
				_, err = s.Data(t.Context(), body)
				require.NoError(t, err)
				if c.room {
					require.Equal(t, chunksInFlight, r.max)
					require.Greater(t, body.most, (chunksInFlight+1)*spool.MaxInline)
				} else {
					require.Equal(t, 1, r.max)
					require.Less(t, body.most, 5*spool.MaxInline/2)
				}
			})
		})
	}
}

// A message that rides in its Accept is there twice while that is on its way.
func TestInlineMessagesOnTheirWayAreCounted(t *testing.T) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) {
		r := &busy{world: w}
		in := &intake{mailer: newMailer(r, nil, "n1", "mx.example.test", 50, zap.NewNop())}
		body := &counted{Reader: strings.NewReader(strings.Repeat("x", 100<<10)), t: t, rep: r}
		in.buf, in.holder = in.buffers.get(0), body
		require.NoError(t, in.fill(body))
		_, err := in.propose(t.Context(), &pb.Accept{Inline: true})
		require.NoError(t, err)
		require.Equal(t, 228<<10, body.most, "a buffer of 128 KiB and 100 KiB on their way")
		require.Zero(t, in.flying.Load())
	})
}

// TestAChunkThatFailsSaysWhy: the client of a large message hears what became of its parts, and
// not that the others were given up.
func TestAChunkThatFailsSaysWhy(t *testing.T) {
	for _, room := range []bool{true, false} {
		w := newWorld(t)
		synctest.Test(t, func(t *testing.T) {
			in := &intake{mailer: newMailer(failing{w}, nil, "n1", "mx.example.test", 50, zap.NewNop()), env: &envelope{}}
			in.digest = sha256.New()
			body := &counted{Reader: strings.NewReader(strings.Repeat("x", 3<<20)), t: t, rep: &busy{world: w}, room: room}
			in.buf, in.holder = in.buffers.get(0), body
			require.NoError(t, in.fill(body))
			require.ErrorIs(t, in.sendAhead(t.Context(), body), errNoRoom)
		})
	}
}

var errNoRoom = errors.New("no room for it")

// failing refuses all commands.
type failing struct{ *world }

func (failing) Propose(context.Context, spool.Frame) (*pb.Result, error) { return nil, errNoRoom }
