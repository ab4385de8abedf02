package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp"
)

// TestRouteToSeveralHosts: of two hosts each gets mail, one that says later is no loss, and the fallback has what both
// put off.
func TestRouteToSeveralHosts(t *testing.T) {
	t.Parallel()
	d := Start(t)
	one, two, last := startHop(t), startHop(t), startHop(t)
	route := func(args ...string) {
		d.Ctl(append([]string{"route", "set", "dest.example.com", "smtp:" + one.addr, "smtp:" + two.addr}, args...)...)
	}
	sent := 0
	send := func(n int) {
		for i := range n {
			sent++
			id := submit(t, d, 1+i%3, "x@dest.example.com", "several "+itoa(sent))
			d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
		}
	}
	route("--weight", "1,1", "--source", "127.0.0.77,192.0.2.1")
	send(20)
	require.NotEmpty(t, one.taken())
	require.NotEmpty(t, two.taken())
	require.Len(t, one.taken(), 20-len(two.taken()))

	later := &smtp.Reply{Code: 450, Enhanced: "4.2.0", Text: "later"}
	one.answer(later)
	before := len(two.taken())
	send(3)
	require.Len(t, two.taken(), before+3)
	two.answer(later)
	route("--fallback", "smtp:"+last.addr)
	send(3)
	require.Len(t, last.taken(), 3)
	require.Contains(t, d.Ctl("route", "ls"), "smtp:"+last.addr)

	route("--source", "192.0.2.1")
	id := submit(t, d, 1, "x@dest.example.com", "no source")
	d.Await(20*time.Second, "it waits", func() bool {
		return strings.Contains(d.trace(id).Recipients[0].LastReply, "source addresses 192.0.2.1")
	})
	route("--fallback", "smtp:"+last.addr)
	d.Ctl("queue", "retry", id)
	d.Await(20*time.Second, "it is delivered", func() bool { return d.trace(id).Recipients[0].State == "delivered" })
	d.verify()
}
