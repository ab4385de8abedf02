package smtp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stutterer is an SMTP server that gives one reply too many: behind its nth
// reply to verb it says stray. It takes bob@ never, and its nth message as told.
type stutterer struct {
	verb, stray string
	nth         int
	ends        []string // replies to messages
	pipelining  bool

	mu    sync.Mutex
	seen  map[string]int
	truth []map[string]string // of each MAIL: the reply that each recipient has
}

func (s *stutterer) reply(verb, text string) string {
	s.seen[verb]++
	if verb == s.verb && s.seen[verb] == s.nth {
		return text + "\r\n" + s.stray + "\r\n"
	}
	return text + "\r\n"
}

// message takes the end of a message.
func (s *stutterer) message() string {
	end := s.ends[min(s.seen["END"], len(s.ends)-1)]
	now := s.truth[len(s.truth)-1]
	for to, r := range now {
		if r == "" {
			now[to] = end
		}
	}
	return s.reply("END", end)
}

func (s *stutterer) command(line string, in *bufio.Reader) string {
	verb, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
	switch verb {
	case "EHLO":
		if s.pipelining {
			return s.reply(verb, "250-hi\r\n250-PIPELINING\r\n250 CHUNKING")
		}
		return s.reply(verb, "250-hi\r\n250 CHUNKING")
	case "MAIL":
		s.truth = append(s.truth, map[string]string{})
		return s.reply(verb, "250 2.1.0 sender")
	case "RCPT":
		to := strings.TrimSuffix(strings.TrimPrefix(arg, "TO:<"), ">")
		now := s.truth[len(s.truth)-1]
		if now[to] = ""; strings.HasPrefix(to, "bob@") {
			now[to] = "550 5.1.1 no bob"
			return s.reply(verb, now[to])
		}
		return s.reply(verb, "250 2.1.5 recipient")
	case "DATA":
		return s.reply(verb, "354 go")
	case ".":
		return s.message()
	case "BDAT":
		size, last, _ := strings.Cut(arg, " ")
		n, _ := strconv.Atoi(size)
		_, _ = io.CopyN(io.Discard, in, int64(n))
		if last == "" {
			return s.reply("CHUNK", "250 chunk")
		}
		return s.message()
	}
	return s.reply(verb, "250 ok")
}

// serve answers commands; replies leave when input runs out.
func (s *stutterer) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	out := s.reply("CONNECT", "220 hi")
	data := false
	for {
		if in.Buffered() == 0 {
			if _, err := io.WriteString(conn, out); err != nil {
				return
			}
			out = ""
		}
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		s.mu.Lock()
		if line = strings.TrimSpace(line); !data || line == "." {
			out += s.command(line, in)
			data = line == "DATA"
		}
		s.mu.Unlock()
	}
}

func (s *stutterer) start(t *testing.T) net.Conn {
	t.Helper()
	s.seen = map[string]int{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		_ = l.Close()
		if err == nil {
			s.serve(conn)
			_ = conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn
}

// checkTruth compares what Send says with what the server decided: a yes and a no
// for good must be true, and a yes is not turned into a retry if it was said.
func (s *stutterer) checkTruth(t *testing.T, n int, to []Rcpt, replies []*Reply) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range replies {
		truth := ""
		if n < len(s.truth) {
			truth = s.truth[n][to[i].Address]
		}
		switch {
		case r.Positive():
			require.Equal(t, "2", truth[:min(1, len(truth))],
				"%s got %s, but the server said %q", to[i].Address, r.Error(), truth)
		case !r.Temporary():
			require.Equal(t, "5", truth[:min(1, len(truth))],
				"%s got %s, but the server said %q", to[i].Address, r.Error(), truth)
		case truth != "" && truth[0] == '2':
			require.ErrorIs(t, r, ErrMaybeSent, "%s was delivered, but got %s", to[i].Address, r.Error())
		}
	}
}

// One reply too many, to any command, shifts no other: what Send reports is what
// the server decided, message by message.
func TestClientStrayReplies(t *testing.T) {
	list := to("ann@x", "bob@x", "cat@x")
	body := strings.Repeat("0123456789abcdef0123456789abcde\r\n", 2000)
	n := 0
	for _, verb := range []string{"CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "CHUNK", "END", "RSET"} {
		for _, stray := range []string{
			"250 2.0.0 ok", "550 5.1.1 no", "452 4.3.1 full", "354 go", "250-half", "421 4.3.2 bye", "what?",
		} {
			for mode := range 4 {
				for nth := 1; nth <= 2; nth++ {
					for _, ends := range [][]string{
						{"250 2.0.0 one"}, {"250 2.0.0 one", "552 5.3.4 two"}, {"452 4.3.1 one", "250 2.0.0 two"},
						{"552 5.3.4 one", "452 4.3.1 two"},
					} {
						s := &stutterer{verb: verb, stray: stray, nth: nth, ends: ends, pipelining: mode&1 == 0}
						s.converse(t, mode&2 == 0, list, body)
						n++
					}
				}
			}
		}
	}
	require.Equal(t, 8*7*4*2*4, n)
}

func (s *stutterer) converse(t *testing.T, chunking bool, list []Rcpt, body string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("%+v, chunking %v", s, chunking)
		}
	}()
	c, err := NewClient(t.Context(), s.start(t), ClientOptions{
		Hostname: "me", Chunking: chunking, MailTimeout: time.Second, RcptTimeout: time.Second, DataTimeout: time.Second,
		BlockTimeout: time.Second, EndTimeout: time.Second,
	})
	if err != nil {
		return
	}
	none := to("bob@x")
	for i, to := range [][]Rcpt{list, none, list[:1], list} {
		replies, err := c.Send(t.Context(), &Envelope{From: "a@b", To: to},
			strings.NewReader(body[:len(body)/(1+3*(i%2))]), nil)
		s.checkTruth(t, i, to, replies)
		if err != nil {
			return
		}
	}
	_ = c.Quit(t.Context())
}

func TestClientStrayIsNamed(t *testing.T) {
	for _, o := range []ClientOptions{{}, {Chunking: true}} {
		s := &stutterer{verb: "RCPT", stray: "250 2.1.5 again", nth: 1, ends: []string{"552 5.3.4 too big"}}
		o.Hostname = "me"
		c, err := NewClient(t.Context(), s.start(t), o)
		require.NoError(t, err)
		replies, err := c.Send(t.Context(), &Envelope{To: to("ann@x")}, strings.NewReader("x\r\n"), nil)
		require.ErrorIs(t, err, ErrStray)
		require.Equal(t, 451, replies[0].Code)
		require.NotErrorIs(t, replies[0], ErrMaybeSent)
		stage, accepted := c.Fate(0)
		require.Equal(t, StageNone, stage)
		require.True(t, accepted)
	}
}

// Octets that come behind the reply to a message, while nothing is under way, are
// found before the next command goes out.
func TestClientStrayOnAnIdleConnection(t *testing.T) {
	for stray, want := range map[string]error{"250 2.0.0 Ok\r\n": ErrStray, "421 4.4.2 idle\r\n": &Reply{}, "": io.EOF} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		idle, said := make(chan struct{}), make(chan string, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s := &stutterer{ends: []string{"250 2.0.0 one"}, seen: map[string]int{}}
			_, _ = io.WriteString(conn, "220 hi\r\n")
			in := bufio.NewReader(conn)
			for !strings.HasPrefix(lastOf(s, in, conn), "250 2.0.0 one") {
			}
			<-idle
			_, _ = io.WriteString(conn, stray)
			_ = conn.(*net.TCPConn).CloseWrite()
			rest, _ := io.ReadAll(in)
			said <- string(rest)
			_ = conn.Close()
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me", Chunking: true})
		require.NoError(t, err)
		replies, err := c.Send(t.Context(), &Envelope{To: to("ann@x")}, strings.NewReader("x\r\n"), nil)
		require.NoError(t, err)
		require.Equal(t, 250, replies[0].Code)
		close(idle)
		require.Eventually(t, func() bool {
			return c.arrived(now) != nil || stray != "" && len(c.in.pending()) >= len(stray)
		}, 60e9, 1e6)
		replies, err = c.Send(t.Context(), &Envelope{To: to("ann@x")}, strings.NewReader("x\r\n"), nil)
		require.Error(t, err)
		var r *Reply
		if errors.As(want, &r) {
			require.Equal(t, "421 4.4.2 idle", replies[0].Error())
		} else {
			require.ErrorIs(t, err, want)
			require.Equal(t, 451, replies[0].Code)
		}
		require.Empty(t, <-said, "nothing was sent")
		_ = l.Close()
	}
}

// lastOf answers one command.
func lastOf(s *stutterer, in *bufio.Reader, conn net.Conn) string {
	line, err := in.ReadString('\n')
	if err != nil {
		return "250 2.0.0 one"
	}
	out := s.command(line, in)
	_, _ = io.WriteString(conn, out)
	return out
}

// The reply to a message counts, whatever it looks like.
func TestClientOddRepliesToTheMessage(t *testing.T) {
	for reply, want := range map[string]string{
		"250\tok":                                        "250 ok",
		"250-part\r\n250\tok":                            "250 part ok",
		"250-2.0.0 well\r\n552 5.3.4 no":                 "552 5.3.4 2.0.0 well no",
		"552-5.3.4 no\r\n250 2.0.0 well":                 "250 2.0.0 5.3.4 no well",
		"250 " + strings.Repeat("y", 9000):               "250 yyyy",
		"250 " + strings.Repeat("y", 500000):             "250 yyyy",
		"250-" + strings.Repeat("y", 9000) + "\r\n250 z": "250 yyyy",
		"250": "250",
	} {
		for _, chunking := range []bool{false, true} {
			s := &stutterer{ends: []string{reply}}
			c, err := NewClient(t.Context(), s.start(t), ClientOptions{Hostname: "me", Chunking: chunking})
			require.NoError(t, err)
			replies, _ := c.Send(t.Context(), &Envelope{To: to("ann@x")}, strings.NewReader("x\r\n"), nil)
			got := replies[0].Error()
			require.True(t, strings.HasPrefix(got, want), "%.30q gave %.80q", reply, got)
			require.LessOrEqual(t, len(got), maxReplyText+20)
		}
	}
}

func TestClientWithout(t *testing.T) {
	s := &stutterer{ends: []string{"250 ok"}, pipelining: true}
	c, err := NewClient(t.Context(), s.start(t), ClientOptions{
		Hostname: "me", Chunking: true, Without: []string{"chunking", "PIPELINING"},
	})
	require.NoError(t, err)
	for _, name := range []string{"CHUNKING", "PIPELINING"} {
		_, ok := c.Has(name)
		require.False(t, ok)
	}
	replies, err := c.Send(t.Context(), &Envelope{To: to("ann@x")}, strings.NewReader("x"), nil)
	require.NoError(t, err)
	require.Equal(t, 250, replies[0].Code)
	require.Equal(t, 1, s.seen["DATA"], fmt.Sprint(s.seen))
}

// A reply too many to a chunk counts for no other chunk, even where the answers
// to those are late: while one is on its way, nothing else is sent.
func TestClientStrayBehindAChunk(t *testing.T) {
	body := strings.Repeat("0123456789abcdef0123456789abcde\r\n", 2500)
	for _, size := range []int{0, len(body)} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		whole := make(chan bool, 1)
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			whole <- stutterAtChunk(conn)
		}()
		conn, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		c, err := NewClient(t.Context(), conn, ClientOptions{Hostname: "me", Chunking: true})
		require.NoError(t, err)
		replies, err := c.Send(t.Context(), &Envelope{To: to("ann@x"), Size: int64(size)}, strings.NewReader(body), nil)
		require.ErrorIs(t, err, ErrStray)
		require.Equal(t, 451, replies[0].Code)
		require.NotErrorIs(t, replies[0], ErrMaybeSent)
		require.False(t, <-whole)
		_ = l.Close()
	}
}

// stutterAtChunk answers the first chunk twice, and the second one not before the
// last has come. It reports whether that came.
func stutterAtChunk(conn net.Conn) bool {
	_, _ = io.WriteString(conn, "220 hi\r\n")
	in := bufio.NewReader(conn)
	s := &stutterer{ends: []string{"250 ok"}, pipelining: true, seen: map[string]int{}}
	for chunks := 0; ; {
		line, err := in.ReadString('\n')
		if err != nil {
			return false
		}
		reply := s.command(line, in)
		if strings.HasSuffix(line, " LAST\r\n") {
			_, _ = io.WriteString(conn, "250 the chunk before\r\n")
			return true
		}
		if strings.HasPrefix(line, "BDAT") {
			if chunks++; chunks == 1 {
				reply = "250 chunk\r\n250 chunk\r\n"
			}
		}
		if chunks < 2 {
			_, _ = io.WriteString(conn, reply)
		}
	}
}

// Chunks are as large as the size of the message allows, and a message that is
// not as long as was said does not go out as if it were.
func TestClientChunkSizes(t *testing.T) {
	for left, want := range map[int64]int64{
		-5: 0, 0: 0, 1: 0, largeBuffer: 0, largeBuffer + 1: largeBuffer, 2 * largeBuffer: largeBuffer, 100_000: 65536,
		maxChunk: maxChunk / 2, 64 << 20: maxChunk,
	} {
		require.Equal(t, want, nextChunk(left), left)
	}
	body := strings.Repeat("0123456789abcdef0123456789abcde\r\n", 10_000)
	for said, want := range map[int]int{
		0: 250, 1: 250, len(body): 250, len(body) - 1: 250, len(body) / 2: 250, len(body) * 10: 451,
	} {
		s := &stutterer{ends: []string{"250 ok"}, pipelining: true}
		c, err := NewClient(t.Context(), s.start(t), ClientOptions{Hostname: "me", Chunking: true})
		require.NoError(t, err)
		replies, _ := c.Send(t.Context(), &Envelope{To: to("ann@x"), Size: int64(said)}, strings.NewReader(body), nil)
		require.Equal(t, want, replies[0].Code, "%d: %s", said, replies[0].Error())
		require.NotErrorIs(t, replies[0], ErrMaybeSent)
		s.mu.Lock()
		if said == len(body) {
			require.Equal(t, 2, s.seen["CHUNK"], "262144 and 65536 octets")
		}
		require.Equal(t, want == 250, s.seen["END"] == 1)
		s.mu.Unlock()
	}
}
