package nodetest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/node/admin"
	"relay/node/config"
	"relay/smtp/wiretest"
)

// office is one node with ports for people's mail programs and devices: submission in
// clear and with TLS, POP3 in clear and with TLS; ann has a mailbox beside the others.
type office struct {
	*Cluster
	submission, submissions, pop3s string
	roots                          *x509.CertPool
}

func newOffice(t *testing.T) *office {
	o := &office{submissions: freeAddr(t), pop3s: freeAddr(t), roots: x509.NewCertPool()}
	o.Cluster, o.submission = relay(t, func(c *config.Config) {
		s, p := config.NewSMTP(), config.NewPOP3()
		s.Listen, s.Role, s.TLS = o.submissions, config.RoleSubmission, config.TLSImplicit
		p.Listen, p.TLS = o.pop3s, config.TLSImplicit
		c.SMTP, c.POP3 = append(c.SMTP, s), append(c.POP3, p)
	})
	pem, err := os.ReadFile(filepath.Join(o.Nodes[0].Dir, "tls.crt"))
	require.NoError(t, err)
	require.True(t, o.roots.AppendCertsFromPEM(pem))
	require.NoError(t, o.Nodes[0].Client().AddUser(within(t, 3*time.Minute), admin.By{Why: "test"},
		admin.UserAdd{Address: "ann@example.test", Password: "secret"}))
	return o
}

// player plays against one of the node's ports. A stranger's connection comes from an
// address that may do nothing without TLS and a login.
func (o *office) player(t *testing.T, port string, implicit, stranger bool) *wiretest.Player {
	config := &tls.Config{RootCAs: o.roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12}
	var from net.Dialer
	if stranger {
		from.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}
	}
	return &wiretest.Player{
		Dial: func(ctx context.Context) (net.Conn, error) {
			if implicit {
				return (&tls.Dialer{NetDialer: &from, Config: config}).DialContext(ctx, "tcp", port)
			}
			return from.DialContext(ctx, "tcp", port)
		},
		TLS: config, Timeout: 30 * time.Second,
		Calls: map[string]func(string) error{
			"arrived": o.arrived, "relayed": o.relayed, "reported": o.reported, "sums": sums,
			"free": func(user string) error { return o.free(t.Context(), user) },
			"to":   ignored, "opts": ignored, "proto": ignored, // of package smtp's own backend
		},
	}
}

func ignored(string) error { return nil }

// arrived: USER ID TEXT, as Go would quote it: the message of that id is in the mailbox
// once, with the text in it.
func (o *office) arrived(args string) error {
	f := strings.SplitN(args, " ", 3)
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(f[2], `"`, `\"`) + `"`)
	if err != nil {
		return err
	}
	with := slices.DeleteFunc(o.inbox(f[0]), func(s string) bool { return !strings.Contains(s, " id "+f[1]) })
	if len(with) != 1 || !strings.Contains(with[0], text) {
		return fmt.Errorf("%q is not in %q", text, with)
	}
	return nil
}

// relayed: ADDRESS TEXT: a message with the text has gone out to the address once.
func (o *office) relayed(args string) error {
	to, text, _ := strings.Cut(args, " ")
	o.Eventually(time.Minute, "nothing goes out to "+to, func() bool {
		n := 0
		for _, d := range o.Sink.Got() {
			if d.To == to && strings.Contains(d.Body, text) {
				n++
			}
		}
		return n == 1
	})
	return nil
}

// reported: USER ADDRESS: the user has a report that mail to the address has failed.
func (o *office) reported(args string) error {
	user, address, _ := strings.Cut(args, " ")
	for _, s := range o.inbox(user) {
		if strings.Contains(s, "Action: failed") && strings.Contains(s, address) {
			return nil
		}
	}
	return fmt.Errorf("%s has no report on %s", user, address)
}

// sums: TOTAL PART…
func sums(args string) error {
	total := 0
	f := strings.Fields(args)
	for _, s := range f[1:] {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		total += n
	}
	if f[0] != strconv.Itoa(total) {
		return fmt.Errorf("the parts are %d octets, all is %s", total, f[0])
	}
	return nil
}

// free waits until a mailbox is not locked.
func (o *office) free(ctx context.Context, user string) error {
	o.Eventually(time.Minute, user+" stays locked", func() bool {
		box, err := o.Nodes[0].Client().Mailbox(ctx, user)
		return err == nil && box.Lock == nil
	})
	return nil
}

// TestPeoplesPrograms: the dialogues of Outlook, Thunderbird, scanners and printers go
// through on a node with real accounts, TLS and mailboxes, and their mail arrives.
func TestPeoplesPrograms(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for _, one := range []struct {
		file               string
		port               string
		implicit, stranger bool
	}{
		{"testdata/outlook-submissions.txt", o.submissions, true, true},
		{"testdata/outlook-wrong-password.txt", o.submission, false, true},
		{"testdata/printer-scan.txt", o.submission, false, true},
		{"testdata/printer-clear.txt", o.submission, false, false},
		{"../../smtp/testdata/client-outlook.txt", o.submission, false, true},
		{"../../smtp/testdata/client-printer.txt", o.submission, false, true},
		{"../../smtp/testdata/client-thunderbird.txt", o.submission, false, true},
	} {
		s, err := wiretest.Load(one.file)
		require.NoError(t, err)
		t.Run(s.Name, func(t *testing.T) {
			require.NoError(t, o.player(t, one.port, one.implicit, one.stranger).Play(t.Context(), s))
		})
	}
	require.NoError(t, o.relayed("x@elsewhere.example Subject: test message of Microsoft Outlook"))
	require.NoError(t, o.relayed("x@example.net naïve €"))
	require.Equal(t, 1, strings.Count(strings.Join(o.inbox("bob@example.test"), ""), "\r\nSubject: scan\r\n"))
}

// TestOutlookReadsMail: so does what Outlook does at the POP3 ports.
func TestOutlookReadsMail(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for _, port := range []struct {
		addr     string
		implicit bool
	}{{o.pop3s, true}, {o.Nodes[0].POP3, false}} {
		for _, text := range []string{"Subject: one\r\n\r\n1\r\n", "Subject: two\r\n\r\n.\r\n..\r\n.leading\r\nend\r\n",
			"Subject: three\r\n\r\n"} {
			o.Nodes[0].MustSend("s@far.example", "ann@example.test", text)
		}
		s, err := wiretest.Load("testdata/outlook-pop3.txt")
		require.NoError(t, err)
		require.NoError(t, o.player(t, port.addr, port.implicit, port.implicit).Play(t.Context(), s))
	}
}
