package admin_test

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/cluster/porttest"
	"relay/node/admin"
)

// closedAddr returns an address where nobody listens while the test runs.
func closedAddr(t *testing.T) string { return porttest.Addr(t, "127.0.0.1") }

func client(t *testing.T, addrs ...string) *admin.Client {
	c, err := admin.NewClient(admin.ClientOptions{Addrs: addrs, Token: "s3cret", Patience: 50 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestNextNode(t *testing.T) {
	w := start(t, nil)
	c := client(t, closedAddr(t), w.url)
	_, err := c.Status(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.AddDomain(t.Context(), by, admin.Domain{Name: "a.test"}))
	require.Len(t, w.Changes(), 1)
}

func TestNobodyAnswers(t *testing.T) {
	a, b := closedAddr(t), closedAddr(t)
	_, err := client(t, a, b).Status(t.Context())
	var none *admin.Unreachable
	require.ErrorAs(t, err, &none)
	require.Equal(t, []string{"http://" + a, "http://" + b}, none.Addrs)
	require.Contains(t, err.Error(), "connection refused")
}

func TestNextNodeWithoutQuorum(t *testing.T) {
	lone, w := start(t, nil), start(t, nil)
	lone.Fail = func(string) error { return admin.NoQuorum("n1 sees no majority") }
	c := client(t, lone.url, w.url)
	require.NoError(t, c.AddDomain(t.Context(), by, admin.Domain{Name: "a.test"}))
	require.Len(t, w.Changes(), 1)
	w.Fail = lone.Fail
	err := c.AddDomain(t.Context(), by, admin.Domain{Name: "b.test"})
	require.ErrorIs(t, err, admin.ErrNoQuorum)
	require.ErrorContains(t, err, "n1 sees no majority")
	err = client(t, lone.url, closedAddr(t), closedAddr(t)).AddDomain(t.Context(), by, admin.Domain{Name: "b.test"})
	require.ErrorIs(t, err, admin.ErrNoQuorum, "a node runs, though none does at the other addresses")
	dying, _ := breaking(t)
	err = client(t, lone.url, dying).AddDomain(t.Context(), by, admin.Domain{Name: "b.test"})
	var none *admin.Unreachable
	require.ErrorAs(t, err, &none, "that one may have changed it")
	err = client(t, dying, closedAddr(t)).AddDomain(t.Context(), by, admin.Domain{Name: "b.test"})
	require.NotErrorIs(t, err, syscall.ECONNREFUSED)
}

// A refusal is an answer: no other node is asked.
func TestRefusalIsFinal(t *testing.T) {
	a, b := start(t, nil), start(t, nil)
	a.Fail = func(string) error { return admin.Conflict("no", "") }
	err := client(t, a.url, b.url).AddDomain(t.Context(), by, admin.Domain{Name: "a.test"})
	require.ErrorIs(t, err, admin.ErrConflict)
	require.Empty(t, b.Changes())
}

// breaking is a node that dies when it has read a request.
func breaking(t *testing.T) (url string, seen *atomic.Int32) {
	seen = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		seen.Add(1)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, seen
}

// A change that broke off goes to the next node under the same key; a message
// does not, because it might be delivered twice.
func TestBrokenConnection(t *testing.T) {
	dying, seen := breaking(t)
	w := start(t, nil)
	by := admin.By{Request: "01JZZZZZZZZZZZZZZZZZZZZZZZ"}
	require.NoError(t, client(t, dying, w.url).AddDomain(t.Context(), by, admin.Domain{Name: "a.test"}))
	require.Equal(t, by.Request, w.Changes()[0].By.Request)
	require.Positive(t, seen.Load())

	before := seen.Load()
	_, err := client(t, dying, w.url).Send(t.Context(), by, admin.Envelope{Recipients: []string{"alice@example.test"}},
		strings.NewReader("x"))
	require.ErrorIs(t, err, admin.ErrUnknown)
	require.Len(t, w.Changes(), 1)
	require.Equal(t, before+1, seen.Load())
}

// A node that accepts connections but does not answer is left for the next.
func TestSilentNode(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	w := start(t, nil)
	_, err = client(t, silent.Addr().String(), w.url).Status(t.Context())
	require.NoError(t, err)
}

func TestNotOurServer(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	_, err := client(t, srv.URL).Status(t.Context())
	require.ErrorContains(t, err, "not an answer of relay's admin API")
	redirect := httptest.NewServer(http.RedirectHandler("http://example.test/", http.StatusFound))
	defer redirect.Close()
	_, err = client(t, redirect.URL).Status(t.Context())
	require.Error(t, err)
	_, err = admin.NewClient(admin.ClientOptions{Addrs: []string{"ftp://x"}})
	require.Error(t, err)
	_, err = admin.NewClient(admin.ClientOptions{})
	require.Error(t, err)
	require.False(t, errors.Is(err, admin.ErrNotFound))
}
