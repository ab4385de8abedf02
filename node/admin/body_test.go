package admin

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a listener of net.Pipe.
type pipes struct{ made chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	c, ok := <-p.made
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// A body that stops coming ends its request; one that goes on may take long, and
// so may the answer to it.
func TestBodiesHaveADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan error, 1)
		l := pipes{make(chan net.Conn, 1)}
		s := &http.Server{Handler: timed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			time.Sleep(10 * bodySilence)
			read <- err
			if r.Context().Err() != nil {
				w.WriteHeader(500)
			}
		}))}
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		open := func() net.Conn {
			here, there := net.Pipe()
			l.made <- there
			_, err := io.WriteString(here, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
			require.NoError(t, err)
			return here
		}
		slow := open()
		for range 10 {
			time.Sleep(bodySilence / 2)
			_, err := io.WriteString(slow, "x")
			require.NoError(t, err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(slow), nil)
		require.NoError(t, err)
		require.Equal(t, 200, answer.StatusCode)
		require.NoError(t, <-read)
		_ = slow.Close()

		silent := open()
		go func() { _, _ = io.Copy(io.Discard, silent) }()
		began := time.Now()
		err = <-read
		require.ErrorContains(t, err, "timeout")
		require.Equal(t, 11*bodySilence, time.Since(began))
		_ = silent.Close()
		close(l.made)
		_ = s.Close()
		<-done
	})
}

// Nor does a connection stay open for a body that nobody reads, such as that of
// a request which was refused, or for one that came too late.
func TestBodiesThatNobodyReads(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"unread": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
		"late":   func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
	} {
		synctest.Test(t, func(t *testing.T) {
			l := pipes{make(chan net.Conn, 1)}
			s := &http.Server{Handler: timed(handler), IdleTimeout: time.Minute}
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Serve(l) }()
			here, there := net.Pipe()
			l.made <- there
			_, err := io.WriteString(here, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
			require.NoError(t, err)
			require.NoError(t, here.SetReadDeadline(time.Now().Add(10*time.Minute)))
			began := time.Now()
			_, err = io.Copy(io.Discard, here)
			require.NoError(t, err, name)
			require.LessOrEqual(t, time.Since(began), 3*bodySilence, name)
			close(l.made)
			_ = s.Close()
			<-done
		})
	}
}

func TestTimedWithoutABody(t *testing.T) {
	r, err := http.NewRequest("POST", "/", strings.NewReader(""))
	require.NoError(t, err)
	timed(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(nil, r)
}
