package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/config"
	"relay/node/nodetest"
)

// OpenDKIM, as its package brings it, looks at what a node takes in: a version 6
// filter that signs and verifies.
func TestOpenDKIMAsContentFilter(t *testing.T) {
	need(t, "opendkim", "openssl")
	dir := t.TempDir()
	key := filepath.Join(dir, "key.pem")
	out, err := exec.Command("openssl", "genrsa", "-out", key, "2048").CombinedOutput()
	require.NoError(t, err, "%s", out)
	public, err := exec.Command("openssl", "rsa", "-in", key, "-pubout", "-outform", "DER").Output()
	require.NoError(t, err)
	records := filepath.Join(dir, "records") // what DNS would say
	require.NoError(t,
		os.WriteFile(records, fmt.Appendf(nil, "s1._domainkey.signed.example v=DKIM1; k=rsa; p=%s\n",
			base64.StdEncoding.EncodeToString(public)), 0o600))
	address := unused(t)
	_, port, _ := net.SplitHostPort(address)
	conf := filepath.Join(dir, "opendkim.conf")
	require.NoError(t,
		os.WriteFile(conf,
			fmt.Appendf(nil, "Mode sv\nDomain signed.example\nSelector s1\nKeyFile %s\nSocket inet:%s@127.0.0.1\n"+
				"Background no\nAutoRestart no\nUMask 007\nInternalHosts 127.0.0.1\nAuthservID mx.example.test\n"+
				"AlwaysAddARHeader yes\nRequireSafeKeys no\n"+
				"TestDNSData file:%s\nPidFile %s\n", key, port, records, filepath.Join(dir, "pid")), 0o600))
	startProgram(t, dir, address, "opendkim", "-f", "-x", conf)

	c := nodetest.New(t, nodetest.Options{Nodes: 1, Configure: func(_ int, conf *config.Config) {
		m := config.NewMilter()
		m.Address = "inet:" + address
		conf.Milter = []config.Milter{m}
	}})
	ctx, done := context.WithTimeout(t.Context(), 20*time.Second)
	defer done()
	newest := func() string {
		t.Helper()
		p, err := c.Nodes[0].Login(ctx, "alice@example.test")
		require.NoError(t, err)
		defer func() { _ = p.Quit(ctx) }()
		n, _, err := p.Stat(ctx)
		require.NoError(t, err)
		var b strings.Builder
		_, err = p.Retr(ctx, n, &b)
		require.NoError(t, err)
		require.NotContains(t, strings.ReplaceAll(b.String(), "\r\n", ""), "\n", "line ends are whole")
		return b.String()
	}
	// A message of its domain, from an inner client, is signed.
	c.Nodes[0].MustSend("a@signed.example", "alice@example.test",
		strings.Replace(nodetest.Letter("signed"), "sender@far.example", "a@signed.example", 1))
	got := newest()
	require.Contains(t, got, "\r\nDKIM-Signature: v=1; a=rsa-sha256;")
	require.Contains(t, got, "d=signed.example; s=s1;")
	_, body, _ := strings.Cut(got, "\r\n\r\n")
	require.Equal(t, "signed\r\n", body)

	// The same from a stranger is verified: as it left, and with another text.
	_, signed, found := strings.Cut(got, "\r\nDKIM-Signature: ")
	require.True(t, found)
	signed = "DKIM-Signature: " + signed
	outer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
	for text, want := range map[string]string{
		signed: "dkim=pass",
		strings.Replace(signed, "\r\n\r\nsigned", "\r\n\r\nforged", 1): "dkim=fail",
	} {
		conn, err := outer.DialContext(ctx, "tcp", c.Nodes[0].SMTP)
		require.NoError(t, err)
		client, err := smtp.NewClient(conn, "mx.example.test")
		require.NoError(t, err)
		require.NoError(t, client.Mail("a@signed.example"))
		require.NoError(t, client.Rcpt("alice@example.test"))
		w, err := client.Data()
		require.NoError(t, err)
		_, err = w.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.NoError(t, client.Quit())
		head, _, _ := strings.Cut(newest(), "\r\n\r\n")
		require.Regexp(t, `\r\nAuthentication-Results: mx\.example\.test;\r\n\t`+want, head)
	}
}
