package smtp

import (
	"io"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// slowLink is a connection of so many octets a second, so far from end to end, with
// a buffer in between. It ends with its test's bubble.
type slowLink struct {
	rate   int // octets a second, each way
	delay  time.Duration
	buffer int // octets that are taken before they have gone through
}

const linkBlock = 16 << 10

// parcel is a piece of what is on its way.
type parcel struct {
	octets []byte
	at     time.Time // when it arrives
}

func (l slowLink) open() (client, server net.Conn) {
	client, a := net.Pipe()
	server, b := net.Pipe()
	go l.carry(a, b)
	go l.carry(b, a)
	return client, server
}

// carry takes what from has to say as fast as the link has room, and hands it to
// the other end at the link's pace.
func (l slowLink) carry(from, to net.Conn) {
	entered := make(chan []byte, max(1, l.buffer/linkBlock))
	left := make(chan parcel, 1<<16)
	go func() {
		defer close(left)
		for octets := range entered {
			time.Sleep(time.Duration(len(octets)) * time.Second / time.Duration(l.rate))
			left <- parcel{octets, time.Now().Add(l.delay)}
		}
	}()
	go func() {
		defer to.Close()
		for p := range left {
			time.Sleep(time.Until(p.at))
			if _, err := to.Write(p.octets); err != nil {
				_ = from.Close()
			}
		}
	}()
	defer close(entered)
	for {
		b := make([]byte, linkBlock)
		n, err := from.Read(b)
		if n > 0 {
			entered <- b[:n]
		}
		if err != nil {
			return
		}
	}
}

// lines is a message that is made while it is read.
type lines struct{ left int64 }

const oneLine = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"

func (r *lines) Read(p []byte) (n int, err error) {
	for n < len(p) && r.left > 0 {
		at := int((int64(len(oneLine)) - r.left%int64(len(oneLine))) % int64(len(oneLine)))
		k := copy(p[n:], oneLine[at:])
		k = int(min(int64(k), r.left))
		n, r.left = n+k, r.left-int64(k)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// over sends a message of size octets over a link, and returns how long that took.
func (l slowLink) over(t *testing.T, size int64, chunking bool) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := l.open()
		s := &stutterer{ends: []string{"250 ok"}, pipelining: true, seen: map[string]int{}}
		go func() { s.serve(far); _ = far.Close() }()
		c, err := NewClient(t.Context(), near, ClientOptions{Hostname: "me", Chunking: chunking})
		require.NoError(t, err)
		defer func() { _ = c.Close() }()
		start := time.Now()
		replies, err := c.Send(t.Context(), &Envelope{From: "a@b", To: to("ann@x"), Size: size}, &lines{size}, nil)
		took = time.Since(start)
		require.NoError(t, err)
		require.Equal(t, "250 ok", replies[0].Error())
	})
	return took
}

// TestClientLargeMessageOverASlowLink: the waits for the answers to chunks cost
// little against DATA, which waits for none: 20 MiB at 1 MB/s, 21 s by DATA, go in
// ten chunks, and so take ten ways there and back longer, under 1 % where those are
// of 20 ms, and under 5 % where they are of 100.
func TestClientLargeMessageOverASlowLink(t *testing.T) {
	const size, rate = 20 << 20, 1_000_000
	for _, c := range []struct {
		delay time.Duration // one way
		most  float64       // by BDAT, of the time by DATA
	}{{0, 1.001}, {10 * time.Millisecond, 1.01}, {50 * time.Millisecond, 1.05}, {150 * time.Millisecond, 1.15}} {
		l := slowLink{rate: rate, delay: c.delay, buffer: 256 << 10}
		data, bdat := l.over(t, size, false), l.over(t, size, true)
		t.Logf("one way %v: DATA %.2f s, BDAT %.2f s, %+.2f %%", c.delay, data.Seconds(), bdat.Seconds(),
			100*(bdat.Seconds()/data.Seconds()-1))
		require.InDelta(t, float64(size)/rate, data.Seconds(), 1.5, "near what the link needs")
		require.LessOrEqual(t, bdat.Seconds(), c.most*data.Seconds(), c.delay)
	}
}

// TestClientChunkBehindAFullBuffer: the answer to a chunk is waited for as long as
// that to a message: the octets in the buffers on the way have to get through first.
func TestClientChunkBehindAFullBuffer(t *testing.T) {
	l := slowLink{rate: 10_000, delay: 20 * time.Millisecond, buffer: 4 << 20}
	for _, chunking := range []bool{false, true} {
		took := l.over(t, 8<<20, chunking)
		require.InDelta(t, 839, took.Seconds(), 15, "the link's time: %v", took)
	}
}

// TestClientLargeMessageNeedsNoMemory: of a large message no more is held than the
// buffers that any message uses.
func TestClientLargeMessageNeedsNoMemory(t *testing.T) {
	const size = 64 << 20
	for _, chunking := range []bool{false, true} {
		s := &stutterer{ends: []string{"250 ok"}, pipelining: true}
		c, err := NewClient(t.Context(), s.start(t), ClientOptions{Hostname: "me", Chunking: chunking})
		require.NoError(t, err)
		peak := &peakReader{Reader: &lines{size}, base: liveHeap()}
		replies, err := c.Send(t.Context(), &Envelope{From: "a@b", To: to("ann@x"), Size: size}, peak, nil)
		require.NoError(t, err)
		require.Equal(t, 250, replies[0].Code)
		t.Logf("chunking %v: at most %d KiB", chunking, peak.most>>10)
		require.Less(t, peak.most, uint64(8<<20), "of both sides")
	}
}

// liveHeap is what is in use. Garbage does not count: how much of it there may be goes by
// what the tests before have left.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// peakReader looks at the heap now and then.
type peakReader struct {
	io.Reader
	base, most uint64
	read       int
}

func (r *peakReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.read += n; r.read > 4<<20 {
		r.read = 0
		if live := liveHeap(); live > r.base {
			r.most = max(r.most, live-r.base)
		}
	}
	return n, err
}
