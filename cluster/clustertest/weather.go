package clustertest

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Weather is how slow and bad the wires of a Group are, each way.
type Weather struct {
	Delay  time.Duration // of everything
	Jitter time.Duration // at most, beside Delay; octets sent later still arrive later
	Loss   float64       // how many packets are lost, 0 to 1
}

// retransmit is how long TCP waits at least before it sends again what got lost,
// beside the time there and back. Connections between members do not double it
// (TCP_THIN_LINEAR_TIMEOUTS); a connection that is being made begins with a second
// and does.
const (
	retransmit = 200 * time.Millisecond
	firstTry   = time.Second
)

// late is how long one piece of a stream is under way.
func (w Weather) late() time.Duration {
	d := w.Delay
	if w.Jitter > 0 {
		d += rand.N(w.Jitter)
	}
	for rand.Float64() < w.Loss {
		d += retransmit + 2*w.Delay
	}
	return d
}

// connectDelay is how long one way of a new connection takes.
func (w Weather) connectDelay() time.Duration {
	d := w.Delay
	for wait := firstTry; rand.Float64() < w.Loss; wait *= 2 {
		d += wait
	}
	return d
}

// SetWeather changes the weather of all wires. It needs a Group with
// Options.Weather.
func (g *Group) SetWeather(w Weather) { g.wires.weather.Store(&w) }

// piece is what was sent at once.
type piece struct {
	b  []byte
	at time.Time // when it arrives
}

// lane carries one direction of one connection. Octets that are sent while others
// are under way do not wait for them: a delay costs time, no throughput.
type lane struct {
	weather *atomic.Pointer[Weather]
	path    *path
	gone    <-chan struct{}
	pieces  chan piece
}

func newLane(w *atomic.Pointer[Weather], p *path, gone <-chan struct{}) *lane {
	return &lane{weather: w, path: p, gone: gone, pieces: make(chan piece, 4096)}
}

// send takes what comes from a side until that ends.
func (l *lane) send(from io.Reader) {
	defer close(l.pieces)
	var last time.Time
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if at := time.Now().Add(l.weather.Load().late()); at.After(last) {
				last = at
			}
			select {
			case l.pieces <- piece{append([]byte(nil), buf[:n]...), last}:
			case <-l.gone:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// deliver gives it to the other side when it is due.
func (l *lane) deliver(to io.Writer) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for p := range l.pieces {
		wait.Reset(max(time.Until(p.at), 0))
		select {
		case <-wait.C:
		case <-l.gone:
			return
		}
		if l.path.pass(l.gone, nil) != nil {
			return
		}
		if _, err := to.Write(p.b); err != nil {
			return
		}
	}
}

// slowConn is the dialling side of a connection through the weather; it stands
// for both directions.
type slowConn struct {
	net.Conn // the near end of a pipe
	far, raw net.Conn
	gone     chan struct{}
	once     sync.Once
}

func (n *network) slow(raw net.Conn, there, back *path) net.Conn {
	near, far := net.Pipe()
	c := &slowConn{Conn: near, far: far, raw: raw, gone: make(chan struct{})}
	for _, way := range []struct {
		lane *lane
		from io.Reader
		to   io.Writer
	}{
		{newLane(&n.weather, there, c.gone), far, raw},
		{newLane(&n.weather, back, c.gone), raw, far},
	} {
		go way.lane.send(way.from)
		go func() {
			way.lane.deliver(way.to)
			_ = c.Close() // what came before the end has arrived
		}()
	}
	return c
}

func (c *slowConn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *slowConn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

func (c *slowConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	_ = c.far.Close()
	_ = c.raw.Close()
	return c.Conn.Close()
}

// travel waits for a connection to be made.
func (w Weather) travel(ctx context.Context) error {
	t := time.NewTimer(w.connectDelay() + w.connectDelay())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
