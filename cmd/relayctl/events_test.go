package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
)

// written is an output that ends its reader's wait when it holds enough.
type written struct {
	mu     sync.Mutex
	text   bytes.Buffer
	enough func(text string) bool
	end    func()
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.enough(w.text.String()) {
		w.end()
	}
	return len(p), nil
}

// TestFollow: events are shown as they come, what is missing beside them; when the node ends
// its answer relayctl asks again and says so, until it is interrupted.
func TestFollow(t *testing.T) {
	w := newWorld(t)
	one := admin.StreamEvent{ID: "c/7.1", Message: "01KD0NE0000000000000000000", Sender: "alice@example.test"}
	one.At, one.What, one.Recipient = admin.At(w.Now), "delivered", "x@remote.test\x1b[31m"
	change := admin.StreamEvent{ID: "c/8.0"}
	change.At, change.What, change.Who = admin.At(w.Now), admin.EventAdmin, "ann"
	change.Detail = "alias set new@example.test"
	w.Happen(one, admin.Missed(3), change)
	for output, want := range map[string]string{
		"table": "2026-03-04 05:06:07Z delivered 01KD0NE0000000000000000000 x@remote.test·[31m  -\n" +
			"2026-03-04 05:06:07Z admin     alias set new@example.test by ann\n",
		"json": `{"id":"c/7.1","message":"01KD0NE0000000000000000000","sender":"alice@example.test",`,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out := &written{end: cancel, enough: func(text string) bool { return strings.Count(text, want) >= 2 }}
		var errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: out, stderr: &errs, now: func() time.Time { return w.Now },
			getenv: func(name string) string { return map[string]string{"RELAY_ADDR": w.url, "RELAY_TOKEN": "s3cret"}[name] },
			tick:   time.Millisecond}
		require.Zero(t, a.run(ctx, []string{"events", "-f", "-o", output}))
		require.True(t, strings.HasPrefix(out.text.String(), want), out.text.String())
		require.Contains(t, errs.String(), "connected again; events of the meantime are missing here")
		if output == "table" {
			require.Contains(t, errs.String(), "relayctl: 3 events missing here: the watcher reads too slowly")
		}
	}
}
