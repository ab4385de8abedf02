package maildrop

import (
	"testing"

	"relay/pop3"
)

var _ pop3.Caller = (*maildrop)(nil)

// TestLossIsTold: a caller that asks before or after a maildrop is lost is called, and
// one that was replaced is not.
func TestLossIsTold(t *testing.T) {
	m := &maildrop{lost: make(chan struct{})}
	told := make(chan string, 8)
	m.OnLost(func() { told <- "replaced" })
	m.OnLost(func() { told <- "before: " + m.LostReason() })
	m.lose("gone")
	m.lose("again")
	if got := <-told; got != "before: gone" {
		t.Fatal(got)
	}
	m.OnLost(func() { told <- "after: " + m.LostReason() })
	if got := <-told; got != "after: gone" {
		t.Fatal(got)
	}
	if len(told) > 0 {
		t.Fatal(<-told)
	}
}
