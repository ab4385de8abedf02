package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"relay/node/config"
	"relay/node/nodetest"
)

// rspamdConf has rspamd scan by itself what comes in by the milter protocol. It
// reads nothing of /etc/rspamd and asks nobody: modules without a section here
// are off. The patterns beside GTUBE are its own, for tests.
const rspamdConf = `
options {
  pidfile = "$dir/rspamd.pid";
  tempdir = "$dir";
  url_tld = "/usr/share/rspamd/effective_tld_names.dat";
  filters = "";
  enable_test_patterns = true;
  disable_hyperscan = true;
  check_local = true;
  dns { nameserver = ["127.0.0.1:9"]; timeout = 100ms; retransmits = 1; }
}
logging { type = "console"; level = "info"; }
worker "rspamd_proxy" {
  bind_socket = "$socket";
  count = 1;
  milter = true;
  upstream "local" { default = true; self_scan = true; }
}
lua = "/usr/share/rspamd/rules/rspamd.lua";
modules { path = "/usr/share/rspamd/plugins"; }
actions { greylist = 4; add_header = 6; reject = 15; discard = 100; subject = "[spam] %s"; }
milter_headers {
  use = ["x-spamd-bar", "x-spam-status", "authentication-results"];
  extended_spam_headers = true;
  skip_local = false;
}
multimap {
  SUBJECT_GREY { type = "header"; header = "subject"; map = "$dir/grey.map"; score = 5.0; }
  SUBJECT_VOID { type = "header"; header = "subject"; map = "$dir/void.map"; action = "discard"; prefilter = true; }
  SUBJECT_SOFT { type = "header"; header = "subject"; map = "$dir/soft.map"; action = "soft reject"; message = "Come back another time"; prefilter = true; }
}
redis { servers = "$redis"; }
greylist { timeout = 1s; }
`

// gtube is the text that every filter refuses; with another first letter it is
// rspamd's pattern for another action.
const gtube = "JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

// program is a stranger's program that runs beside a test.
type program struct {
	cmd *exec.Cmd
	log *os.File
}

// startProgram starts a program in a process group of its own and waits until it
// listens. Its output is shown where the test fails.
func startProgram(t *testing.T, dir, address, name string, args ...string) *program {
	t.Helper()
	out, err := os.Create(filepath.Join(dir, filepath.Base(name)+".log"))
	require.NoError(t, err)
	p := &program{exec.Command(name, args...), out}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = out, out, &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		p.kill()
		if said, err := os.ReadFile(out.Name()); t.Failed() && err == nil {
			t.Logf("%s says:\n%s", name, said[max(0, len(said)-8000):])
		}
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 30*time.Second, 20*time.Millisecond, "%s does not listen, see %s", name, out.Name())
	return p
}

// kill ends the program and its children the hard way, once.
func (p *program) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	_ = p.cmd.Wait()
	_ = p.log.Close()
}

// unused is a TCP address on loopback at which nobody listens.
func unused(t *testing.T) string { return freeAddr(t, "127.0.0.1") }

// startRspamd starts rspamd, and redis for its greylisting where that is
// installed.
func startRspamd(t *testing.T) (p *program, address string, grey bool) {
	t.Helper()
	dir := t.TempDir()
	address, redis := unused(t), unused(t)
	if _, err := exec.LookPath("redis-server"); err == nil {
		grey = true
		host, port, _ := net.SplitHostPort(redis)
		startProgram(t, dir, redis, "redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly",
			"no", "--dir", dir)
	}
	conf := os.Expand(rspamdConf, func(name string) string {
		return map[string]string{"dir": dir, "socket": address, "redis": redis}[name]
	})
	for name, text := range map[string]string{
		"rspamd.conf": conf, "grey.map": "grey\n", "soft.map": "soft\n", "void.map": "void\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	// -i: it may run as the user that runs the tests, root included.
	return startProgram(t, dir, address, "rspamd", "-f", "-i", "-c", filepath.Join(dir, "rspamd.conf")), address, grey
}

// rspamd as its package brings it, in the role it has at most sites: its proxy
// worker speaks the milter protocol with all nodes.
func TestRspamdAsContentFilter(t *testing.T) {
	need(t, "rspamd")
	filter, address, grey := startRspamd(t)
	core, logs := observer.New(zapcore.InfoLevel)
	c := nodetest.New(t, nodetest.Options{Log: zap.New(core), Configure: func(i int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = "inet:" + address
		if i == 2 {
			m.OnFailure = config.FailAccept
		}
		conf.Milter = []config.Milter{m}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	letter := func(subject, text string) string {
		return "From: Ann <ann@far.example>\r\nTo: alice@example.test\r\nSubject: " + subject +
			"\r\nDate: Sat, 21 Nov 2026 12:00:00 +0000\r\n" +
			"Message-ID: <" + subject + "@far.example>\r\nX-Spam: forged by its sender\r\n\r\n" + text + "\r\n"
	}
	send := func(node int, subject, text string) (string, error) {
		return c.Nodes[node].Send(ctx, "ann@far.example", "alice@example.test", letter(subject, text))
	}
	refused := func(err error, code int, text string) {
		t.Helper()
		var e *textproto.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code, e.Msg)
		require.Contains(t, e.Msg, text)
	}
	// received is the message with a subject, wherever it was taken in.
	received := func(subject string) (head, body string) {
		t.Helper()
		p, err := c.Nodes[0].Login(ctx, "alice@example.test")
		require.NoError(t, err)
		defer func() { _ = p.Quit(ctx) }()
		n, _, err := p.Stat(ctx)
		require.NoError(t, err)
		for ; n > 0; n-- {
			var b strings.Builder
			_, err := p.Retr(ctx, n, &b)
			require.NoError(t, err)
			if nodetest.SubjectOf(b.String()) == subject {
				head, body, _ = strings.Cut(b.String(), "\r\n\r\n")
				return head, body
			}
		}
		require.Fail(t, "no message "+subject)
		return "", ""
	}

	t.Run("clean", func(t *testing.T) {
		for i := range c.Nodes {
			subject := fmt.Sprintf("clean %d", i)
			_, err := send(i, subject, "Hello, Alice.")
			require.NoError(t, err)
			head, body := received(subject)
			require.Equal(t, "Hello, Alice.\r\n", body)
			require.Contains(t, head, "\r\nX-Spam-Status: No, score=")
			require.Contains(t, head, "\r\nX-Spamd-Result: default: False [")
			require.Contains(t, head, "\r\nX-Spamd-Bar: ")
			require.Contains(t, head, "\r\nX-Rspamd-Action: no action")
			require.Contains(t, head, fmt.Sprintf("\r\nAuthentication-Results: n%d.example.test;", i+1))
			require.Equal(t, strings.Count(head, "\r\n"), strings.Count(head, "\n"), "line ends are whole")
		}
	})
	t.Run("large", func(t *testing.T) {
		text := strings.Repeat(strings.Repeat("all is well ", 6)+"\r\n", 10_000)
		_, err := send(1, "large", text)
		require.NoError(t, err)
		head, body := received("large")
		require.Contains(t, head, "\r\nX-Spam-Status: No, score=")
		require.Equal(t, text+"\r\n", body)
	})
	t.Run("refused", func(t *testing.T) {
		for i := range c.Nodes {
			_, err := send(i, "worst", "X"+gtube)
			refused(err, 554, "5.7.1 Gtube pattern")
		}
		require.Len(t, logs.FilterMessage("refused by a content filter").FilterField(zap.String("reply",
			"554 5.7.1 Gtube pattern")).All(), len(c.Nodes))
	})
	t.Run("marked", func(t *testing.T) {
		_, err := send(1, "bad", "Y"+gtube)
		require.NoError(t, err)
		head, body := received("bad")
		require.Contains(t, head, "\r\nX-Spam: Yes")
		require.Equal(t, 1, strings.Count(head, "\r\nX-Spam: "), "the forged field is gone")
		require.Equal(t, "Y"+gtube+"\r\n", body)
	})
	t.Run("subject", func(t *testing.T) {
		_, err := send(2, "worse", "Z"+gtube)
		require.NoError(t, err)
		head, _ := received("[spam] worse")
		require.NotContains(t, head, "\r\nSubject: worse")
	})
	t.Run("put off", func(t *testing.T) {
		_, err := send(0, "soft", "Hello.")
		refused(err, 451, "4.7.1 Come back another time")
	})
	t.Run("discarded", func(t *testing.T) {
		id, err := send(1, "void", "Hello.")
		require.NoError(t, err)
		trace, err := c.Nodes[1].Client().Trace(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "discarded by the content filter inet:"+address, trace.Recipients[0].LastReply)
		found, err := c.Nodes[0].Subjects("alice@example.test")
		require.NoError(t, err)
		require.Zero(t, found["void"])
	})
	t.Run("greylisted", func(t *testing.T) {
		if !grey {
			t.Skip("redis-server is not installed")
		}
		_, err := send(0, "grey", "Hello.")
		refused(err, 451, "4.7.1 Try again later")
		c.Eventually(30*time.Second, "rspamd does not let the retry pass, at another node", func() bool {
			_, err = send(1, "grey", "Hello.")
			var e *textproto.Error
			if errors.As(err, &e) {
				refused(err, 451, "4.7.1 Try again later")
			}
			return err == nil
		})
		received("grey")
	})
	t.Run("killed", func(t *testing.T) { // last: it stays so
		// One message is under way, at a node that puts mail off.
		conn, err := textproto.Dial("tcp", c.Nodes[1].SMTP)
		require.NoError(t, err)
		defer conn.Close()
		say := func(code int, line string) string {
			t.Helper()
			if line != "" {
				require.NoError(t, conn.PrintfLine("%s", line))
			}
			_, text, err := conn.ReadResponse(code)
			require.NoError(t, err)
			return text
		}
		say(220, "")
		say(250, "EHLO client.test")
		say(250, "MAIL FROM:<ann@far.example>")
		say(250, "RCPT TO:<alice@example.test>")
		filter.kill()
		say(354, "DATA")
		w := conn.DotWriter()
		_, err = io.WriteString(w, letter("under way", "Hello."))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Contains(t, say(451, ""), "4.7.1 The message can not be checked now")

		_, err = send(0, "put off", "Hello.")
		refused(err, 451, "4.7.1 The message can not be checked now, try again later")
		down := logs.FilterMessage("content filter does not answer")
		require.Equal(t, 2,
			down.FilterField(zap.String("filter", "inet:"+address)).FilterField(zap.Bool("passes", false)).Len())

		id, err := send(2, "unseen", "X"+gtube)
		require.NoError(t, err)
		head, _ := received("unseen")
		require.NotContains(t, head, "X-Spamd-Result")
		trace, err := c.Nodes[0].Client().Trace(ctx, id)
		require.NoError(t, err)
		require.Equal(t, "accepted", trace.Events[0].What)
		require.Equal(t, "not seen by the content filter inet:"+address+", which did not answer", trace.Events[0].Detail)
		require.Equal(t, 1, logs.FilterMessage("content filter does not answer").FilterField(zap.Bool("passes", true)).Len())
	})
	c.Verify()
}
