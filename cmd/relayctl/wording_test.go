package main

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/admin/admintest"
)

// Errors say in plain words what is wrong and what to do, and bad flags are 2.
func TestErrorsNameTheNextStep(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"trace", "--since", "2h", "--limit", "many"}, `--limit "many" is not a whole number`},
		{[]string{"trace", "--since", "2h", "--limit", "-1"}, `--limit -1 is less than 0`},
		{[]string{"audit", "--limit", "-5"}, `--limit -5 is less than 0`},
		{[]string{"queue", "hold", "--all=perhaps"}, `--all "perhaps" is not true or false`},
		{[]string{"queue", "ls", "--limit", "-1"}, `--limit -1 is less than 0`},
	} {
		_, stderr, code := w.ctl(t, "", c.args...)
		require.Equal(t, 2, code, c.args)
		require.Contains(t, stderr, c.want)
		require.NotContains(t, stderr, "strconv")
		require.NotContains(t, stderr, "query.")
	}
	_, stderr, code := w.ctl(t, "", "status", "--token", "wrong")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "not an admin token")
	url := w.url
	w.url = "http://127.0.0.1:1"
	_, stderr, code = w.ctl(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the connection was refused")
	w.url = url

	srv := httptest.NewTLSServer(admin.NewServer(admin.Options{
		Ports: admintest.New().Ports(), Token: func() string { return "s3cret" },
	}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	_, stderr, code = w.ctl(t, "", "status")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "--ca FILE")
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t,
		os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600))
	_, stderr, code = w.ctl(t, "", "status", "--ca", ca)
	require.Zero(t, code, stderr)
}

func TestRouteOfALocalDomainIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	_, stderr, code := w.ctl(t, "", "route", "set", "example.test", "smtp:127.0.0.1:25")
	require.Zero(t, code)
	require.Contains(t, stderr, "warning: example.test is a local domain")
	_, stderr, code = w.ctl(t, "", "route", "set", "far.test", "mx")
	require.Zero(t, code)
	require.Empty(t, stderr)
}

// Errors on a command line or in the network are told without the words of Go, of
// system calls or of the API's description, and have the right exit code.
func TestHostileInput(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	secure := httptest.NewTLSServer(admin.NewServer(admin.Options{
		Ports: w.Ports(), Token: func() string { return "s3cret" },
	}))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(secure.Close)
	talker := listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 mx.example ESMTP\r\n"); _ = c.Close() })
	closer := listen(t, func(c net.Conn) { _ = c.Close() })
	for _, c := range []struct {
		want string
		code int
		args []string
	}{
		{"argument is empty", 2, []string{"queue", "show", ""}},
		{"nor the end of one", 2, []string{"queue", "show", "../../etc"}},
		{"nor the end of one", 2, []string{"queue", "hold", "zzz"}},
		{"nor the end of one", 2, []string{"trace", "not-an-id"}},
		{"there is no waiting message", 1, []string{"queue", "show", "01M0T4AAAABBBBBBBB1CDDDDDD"}},
		{"the form is 'relayctl queue show ID'", 2, []string{"queue", "show", "a", "b"}},
		{"--algorithm", 2, []string{"dkim", "add", "example.test", "--algorithm", "dsa"}},
		{"--auth-policy", 2, []string{"domain", "set", "example.test", "--auth-policy", "perhaps"}},
		{"--tls-ca: /no/such: no such file", 2, []string{"route", "set", "far.test", "smtp:h", "--tls-ca", "/no/such"}},
		{"--retention 4000d is longer than 10 years", 2, []string{"user", "set", "a@example.test", "--retention", "4000d"}},
		{"--expire 4000d is longer than 10 years", 2, []string{"settings", "set", "--expire", "4000d"}},
		{"--uses 0 is not between", 2, []string{"node", "token", "--uses", "0"}},
		{"not a whole number", 2, []string{"settings", "set", "--greylist-trust", "x"}},
		{"--from is missing", 2, []string{"send", "--to", "a@b.test"}},
		{`"x@@y" is not an address`, 2, []string{"send", "--from", "a@b.test", "--to", "x@@y"}},
		{`"a b" is not an address`, 2, []string{"send", "--from", "a b", "--to", "a@b.test"}},
		{"--to names no recipient", 2, []string{"send", "--from", "a@b.test", "--to", ""}},
		{"no message in", 1, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--data", file("empty", "")}},
		{"no message on standard input", 1, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--data", "-"}},
		{"read: " + dir, 1, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--data", dir}},
		{"the connection was refused", 1, []string{
			"send", "--from", "a@b.test", "--to", "a@b.test", "--smtp", "127.0.0.1:1",
		}},
		{"not a host and a port", 1, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--smtp", "127.0.0.1:xx"}},
		{"closed the connection", 1, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--smtp", closer}},
		{"holds no token", 1, []string{"status", "--token-file", file("junk", "\x80\x01binary\x00\n")}},
		{"can not be read: " + dir, 1, []string{"status", "--ca", dir}},
		{"write http:// and not https://", 1, []string{"status", "--addr", strings.Replace(w.url, "http:", "https:", 1)}},
		{"write https:// and not http://", 1, []string{
			"status", "--addr", strings.Replace(secure.URL, "https:", "http:", 1),
		}},
		{"does not speak HTTP", 1, []string{"status", "--addr", "http://" + talker}},
		{"closed the connection", 1, []string{"status", "--addr", "http://" + closer}},
		{"not a host and a port", 1, []string{"status", "--addr", "http://127.0.0.1:99999"}},
		{"unknown command", 2, []string{"completion", "nosh"}},
		{"not local; add it with", 1, []string{"user", "add", "dave@nowhere.test", "--password-stdin"}},
		{"not local; add it with", 1, []string{"dkim", "add", "nowhere.test"}},
		{`"|/bin/cat" is not an address`, 2, []string{"alias", "set", "all@example.test", "|/bin/cat"}},
		{`":include:/x" is not an address`, 2, []string{"alias", "set", "all@example.test", ":include:/x"}},
		{"not the name of a header field", 2, []string{"send", "--from", "a@b.test", "--to", "a@b.test", "--header", ": x"}},
	} {
		stdin := ""
		if c.args[0] == "user" {
			stdin = "secret"
		}
		out, stderr, code := w.ctl(t, stdin, c.args...)
		require.Equal(t, c.code, code, "%q: %s", c.args, stderr)
		require.Empty(t, out, c.args)
		require.Contains(t, stderr, c.want)
		require.Equal(t, 1, strings.Count(stderr, "\n"), stderr)
		if strings.Contains(c.want, "speak") || strings.Contains(c.want, "write http") {
			require.NotContains(t, stderr, "start one", "something runs there")
		}
		for _, word := range []string{"strconv", "dial tcp", "EOF", "open /", "read /", "stat /",
			"%!", "openapi", "arg(s)", "flag(s)", "malformed", "net/http"} {
			require.NotContains(t, stderr, word, c.args)
		}
	}
}

// A bare local part is completed by the default domain, and what is said of the change
// names the address that was changed; without a default domain it is refused.
func TestBareNamesAreCompleted(t *testing.T) {
	w := newWorld(t)
	for _, args := range [][]string{
		{"alias", "set", "x", "y"}, {"alias", "rm", "x"}, {"user", "add", "x", "--password-stdin"},
		{"user", "passwd", "alice", "--password-stdin"}, {"user", "set", "alice", "--enable"},
	} {
		out, stderr, code := w.ctl(t, "secret", args...)
		require.Equal(t, 2, code, args)
		require.Empty(t, out)
		require.Contains(t, stderr,
			"has no domain, and the cluster has no default domain: give the whole address, or set one")
	}
	_, _, code := w.ctl(t, "", "settings", "set", "--default-domain", "example.test")
	require.Zero(t, code)
	for _, c := range []struct{ args, out, stderr string }{
		{"alias set X alice y bob+tag",
			"Mail to x@example.test goes to alice@example.test, y@example.test, bob+tag@example.test.\n",
			"warning: there is no user and no alias y@example.test: mail to the alias does not reach it\n"},
		{"alias set alice alice", "Mail to alice@example.test goes to alice@example.test.\n", ""},
		{"alias set n n", "Mail to n@example.test goes to n@example.test.\n",
			"warning: there is no user and no alias n@example.test: mail to the alias does not reach it\n"},
		{"alias set z x far@remote.test", "Mail to z@example.test goes to x@example.test, far@remote.test.\n", ""},
		{"alias rm x", "Alias x@example.test is removed.\n", ""},
		{"user add x --password-stdin", "User x@example.test is added.\n", ""},
		{"user passwd x --password-stdin", "The password of x@example.test is set.\n", ""},
		{"user set x --disable", "User x@example.test is changed.\n", ""},
	} {
		out, stderr, code := w.ctl(t, "secret", strings.Fields(c.args)...)
		require.Zero(t, code, stderr)
		require.Equal(t, c.out, out)
		require.Equal(t, c.stderr, stderr)
	}
}

// listen answers each connection with f.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f(c)
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A table that could not be written is no success.
func TestOutputThatCanNotBeWritten(t *testing.T) {
	w := newWorld(t)
	for _, form := range []string{"table", "json", "yaml"} {
		var errs bytes.Buffer
		a := &app{
			stdin: strings.NewReader(""), stdout: fullDisk{}, stderr: &errs, now: func() time.Time { return w.Now },
			getenv: func(string) string { return "" },
		}
		require.Equal(t, 1, a.run(t.Context(), []string{"queue", "ls", "--addr", w.url, "--token", "s3cret", "-o", form}))
		require.Contains(t, errs.String(), "no space left")
	}
}
