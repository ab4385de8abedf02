package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// importing is one run of 'relayctl mailbox import'.
type importing struct {
	d      *Dev
	cmd    *exec.Cmd
	out    bytes.Buffer
	stderr bytes.Buffer
}

func (d *Dev) imports(args ...string) *importing {
	im := &importing{d: d}
	im.cmd = exec.Command(d.bin+"/relayctl", append([]string{"mailbox", "import", "-o", "json"}, args...)...)
	im.cmd.Env = append(os.Environ(), "RELAY_ADDR="+d.adminURLs(), "RELAY_TOKEN=dev")
	im.cmd.Stdout, im.cmd.Stderr = &im.out, &im.stderr
	require.NoError(d.t, im.cmd.Start())
	return im
}

type importSaid struct {
	Messages, Known int
	Complete        bool
}

// end waits for the run, and returns what it said.
func (im *importing) end(code int) (said importSaid) {
	im.d.t.Helper()
	err := im.cmd.Wait()
	var exit *exec.ExitError
	require.True(im.d.t, err == nil || errors.As(err, &exit), "%v", err)
	require.Equal(im.d.t, code, im.cmd.ProcessState.ExitCode(), im.stderr.String())
	require.NoError(im.d.t, json.Unmarshal(im.out.Bytes(), &said), im.stderr.String())
	im.d.t.Logf("%+v %s", said, strings.TrimSpace(im.stderr.String()))
	return said
}

// held is how many messages bob has.
func (d *Dev) held() int {
	d.t.Helper()
	var box struct{ Messages int }
	boxes := []struct {
		User     string
		Messages int
	}{}
	out, err := d.Try("", d.bin+"/relayctl", "mailbox", "ls", "-o", "json")
	if err != nil || json.Unmarshal([]byte(out), &boxes) != nil {
		return 0 // while nobody leads
	}
	for _, one := range boxes {
		if strings.HasPrefix(one.User, "bob@") {
			box.Messages = one.Messages
		}
	}
	return box.Messages
}

// TestImportInterrupted: an import whose relayctl is killed, then stopped by SIGTERM,
// and whose leader dies, brings each message once, in order, and counts exactly.
// RELAY_E2E_IMPORT says how many there are (5000).
func TestImportInterrupted(t *testing.T) {
	n := 5000
	if more, err := strconv.Atoi(os.Getenv("RELAY_E2E_IMPORT")); err == nil {
		n = more
	}
	d := Start(t, "--restart-after", "1s")
	path := filepath.Join(t.TempDir(), "inbox")
	var mbox strings.Builder
	for i := range n {
		fmt.Fprintf(&mbox, "From a@b.example Thu Feb  1 10:00:00 2024\nSubject: %d\nX-UIDL: old-%d\n\n%s\n",
			i, i, strings.Repeat("a line of text, to make it as long as mail is\n", 20))
	}
	require.NoError(t, os.WriteFile(path, []byte(mbox.String()), 0o600))
	underWay := func(least int) {
		t.Helper()
		d.Await(60*time.Second, "the import is under way", func() bool { return d.held() > least })
	}

	one := d.imports("--keep-uidl", "bob", path)
	underWay(0)
	require.NoError(t, one.cmd.Process.Kill())
	_ = one.cmd.Wait()
	killed, same := d.held(), 0
	d.Await(60*time.Second, "the batch of the dead relayctl is over", func() bool {
		now := d.held()
		if same++; now != killed {
			killed, same = now, 0
		}
		return same == 10
	})
	require.Less(t, killed, n, "it was killed under way")

	two := d.imports("--keep-uidl", "bob", path)
	underWay(killed)
	require.NoError(t, two.cmd.Process.Signal(syscall.SIGTERM))
	said := two.end(1)
	require.False(t, said.Complete)
	require.Equal(t, said.Messages+said.Known, d.held(), "what went in is counted exactly")
	require.GreaterOrEqual(t, said.Known, killed, "a batch was under way when the first was killed")
	stopped := d.held()
	require.Less(t, stopped, n)

	began := time.Now()
	three := d.imports("--keep-uidl", "bob", path)
	underWay(stopped)
	d.KillNode(d.leader())
	said = three.end(0)
	require.True(t, said.Complete)
	require.Equal(t, importSaid{Messages: n - stopped, Known: stopped, Complete: true}, said)
	t.Logf("%d messages through the death of the leader: %.0f a second",
		said.Messages, float64(said.Messages)/time.Since(began).Seconds())

	d.Ctl("status", "--wait", "60")
	require.Equal(t, importSaid{Known: n, Complete: true}, d.imports("bob", path).end(0))
	p := login(t, d.Addr(1, POP3), "bob", "secret")
	require.Equal(t, n, p.count())
	for _, i := range []int{0, 1, killed, stopped, n / 2, n - 1} {
		require.Contains(t, p.retr(i+1), fmt.Sprintf("Subject: %d\n", i), "they stand in their order")
		require.Equal(t, fmt.Sprintf("+OK %d old-%d", i+1, i), p.say(fmt.Sprintf("UIDL %d", i+1)))
	}
	p.quit()
	d.verify()
	d.Restart()
	p = login(t, d.Addr(2, POP3), "bob", "secret")
	require.Equal(t, "+OK 1 old-0", p.say("UIDL 1"), "unique ids outlive a restart")
	p.quit()
}
