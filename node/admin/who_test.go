package admin_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/admin"
	"relay/node/admin/admintest"
)

// ask sends one request straight to a handler.
func ask(h http.Handler, path, remote, auth string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	r.Host, r.RemoteAddr = "127.0.0.1:7180", remote
	if auth != "" {
		r.Header.Set("Authorization", auth)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func guarded(failed *atomic.Int64, log *zap.Logger) http.Handler {
	return admin.NewServer(admin.Options{
		Ports: admintest.New().Ports(), Token: func() string { return "# operators\nolga s3cret\n" }, Log: log,
		TokenFile: "/var/lib/relay/admin.token", TokenFailed: func() { failed.Add(1) },
	})
}

func TestWrongTokensAreLoggedCountedAndSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		var failed atomic.Int64
		h := guarded(&failed, zap.New(core))
		took := func(remote, auth string, want int) time.Duration {
			began := time.Now()
			require.Equal(t, want, ask(h, "/v1/status", remote, auth).Code, auth)
			return time.Since(began)
		}
		for i, auth := range []string{
			"Bearer", "Bearer ", "Bearer wrong", "Basic s3cret", "s3cret", "Bearer olga s3cret", "Bearer s3cret\tx",
			"Bearer operators",
		} {
			require.Equal(t, min(100*time.Millisecond<<i, 5*time.Second), took("[2001:db8::1]:999", auth, 401), auth)
		}
		require.EqualValues(t, 8, failed.Load())
		entries := logs.FilterMessage("wrong admin token").All()
		require.Len(t, entries, 8)
		require.Equal(t, "[2001:db8::1]:999", entries[2].ContextMap()["remote"])
		require.NotContains(t, fmt.Sprint(entries), "s3cret")
		require.Equal(t, 5*time.Second, took("[2001:db8::ffff]:1", "Bearer x", 401), "the same /64")
		require.Zero(t, took("[2001:db8::1]:999", "Bearer s3cret", 200), "a good one does not wait")
		require.Zero(t, took("[2001:db8::1]:999", "", 401), "nor who gives none")
		require.Equal(t, 100*time.Millisecond, took("[2001:db8:1::1]:999", "Bearer x", 401), "another network")
		time.Sleep(11 * time.Minute)
		require.Equal(t, 100*time.Millisecond, took("[2001:db8::1]:999", "Bearer x", 401), "forgiven")
	})
}

// The path of a stranger reaches the log as one line that a terminal can show.
func TestStrangersPathsAreCleaned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.DebugLevel)
		var failed atomic.Int64
		h := guarded(&failed, zap.New(core))
		ask(h, "/v1/%1b%5b2J%c2%9b%e2%80%ae%e2%80%a8%85%0ax", "192.0.2.1:9", "Bearer x")
		ask(h, "/"+strings.Repeat("x", 100_000), "192.0.2.1:9", "")
		paths := map[string]bool{}
		for _, e := range logs.All() {
			path := fmt.Sprint(e.ContextMap()["path"])
			require.LessOrEqual(t, len(path), 255)
			paths[path] = true
		}
		require.True(t, paths["/v1/?[2J?????x"], paths)
		require.Len(t, paths, 2)
	})
}

// A request without a token asks nothing of the other nodes, at the pages that need none either.
func TestProbesAskNoOtherNode(t *testing.T) {
	asked := 0
	h := admin.NewServer(admin.Options{
		Ports: admintest.New().Ports(), Token: func() string { return "s3cret" },
		Barrier: func(context.Context) error { asked++; return nil },
	})
	for _, path := range []string{"/healthz", "/readyz", "/", "/metrics", "/v1/status"} {
		ask(h, path+"?consistent=true", "127.0.0.1:9", "")
		ask(h, path+"?consistent=true", "192.0.2.1:9", "")
	}
	require.Zero(t, asked)
	require.Equal(t, 200, ask(h, "/v1/status?consistent=true", "192.0.2.1:9", "Bearer s3cret").Code)
	require.Equal(t, 1, asked)
}

func TestParallelGuessesGainNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failed atomic.Int64
		h := guarded(&failed, nil)
		var mu sync.Mutex
		var wg sync.WaitGroup
		codes := map[int]int{}
		for i := range 150 {
			wg.Go(func() {
				code := ask(h, "/v1/status", fmt.Sprintf("192.0.2.9:%d", 1000+i), fmt.Sprint("Bearer ", i)).Code
				mu.Lock()
				defer mu.Unlock()
				codes[code]++
			})
		}
		wg.Wait()
		require.Equal(t, map[int]int{401: 16, 429: 134}, codes)
		require.Equal(t, 200, ask(h, "/v1/status", "192.0.2.9:1", "Bearer s3cret").Code)
		// Nobody on this machine keeps the operator out.
		for i := range 100 {
			wg.Go(func() { ask(h, "/v1/status", fmt.Sprintf("127.0.0.1:%d", 1000+i), "Bearer x") })
		}
		synctest.Wait()
		require.Equal(t, 200, ask(h, "/v1/status", "127.0.0.1:1", "Bearer s3cret").Code)
		wg.Wait()
	})
}

func TestOnlyThisMachineHearsOfTheTokenFile(t *testing.T) {
	var failed atomic.Int64
	h := guarded(&failed, nil)
	require.Equal(t, "/var/lib/relay/admin.token",
		ask(h, "/v1/status", "[::ffff:127.0.0.1]:9", "").Header().Get(admin.TokenFileHeader))
	require.Empty(t, ask(h, "/v1/status", "192.0.2.1:9", "").Header().Get(admin.TokenFileHeader))
	require.Zero(t, failed.Load(), "who gives no token guesses none")
}

func TestAnonymous(t *testing.T) {
	tokens, anonymous := "", true
	h := admin.NewServer(admin.Options{
		Ports: admintest.New().Ports(), Token: func() string { return tokens }, Anonymous: func() bool { return anonymous },
	})
	for _, auth := range []string{"", "Bearer dev"} {
		require.Equal(t, 200, ask(h, "/v1/status", "127.0.0.1:9", auth).Code, auth)
		require.Equal(t, 401, ask(h, "/v1/status", "192.0.2.1:9", auth).Code, auth)
	}
	tokens = "s3cret"
	require.Equal(t, 200, ask(h, "/v1/status", "127.0.0.1:9", "").Code)
	require.Equal(t, 401, ask(h, "/v1/status", "127.0.0.1:9", "Bearer dev").Code)
	tokens, anonymous = "", false
	require.Equal(t, 401, ask(h, "/v1/status", "127.0.0.1:9", "").Code)
	require.Equal(t, 401, ask(h, "/v1/status", "127.0.0.1:9", "Bearer ").Code, "no token is no token")
}

func TestHealthServesNothingElse(t *testing.T) {
	ready := fmt.Errorf("it has no leader")
	h := admin.NewHealth(func() error { return ready })
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 503, "/": 404, "/metrics": 404, "/v1/status": 404, "/openapi.json": 404,
	} {
		require.Equal(t, want, ask(h, path, "192.0.2.1:9", "").Code, path)
	}
	ready = nil
	require.Equal(t, 200, ask(h, "/readyz", "192.0.2.1:9", "").Code)
}
