package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"

	"relay/cmd/relayctl/smtptalk"
	"relay/node/admin"
)

// smtpFlags say how a server is spoken to directly.
type smtpFlags struct {
	addr, tls, user, helo string
	insecure              bool
	timeout               time.Duration
}

func (s *smtpFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.addr, "smtp", "", "speak SMTP to `HOST:PORT` instead of using the admin API")
	f.StringVar(&s.tls, "tls", "none", "with --smtp: none, starttls or implicit")
	f.BoolVar(&s.insecure, "insecure", false, "with --smtp: take any certificate")
	f.StringVar(&s.user, "user", "", "with --smtp: log in by AUTH PLAIN; the password as for 'user passwd'")
	f.StringVar(&s.helo, "helo", "", "with --smtp: name in EHLO; default: this machine's")
	f.DurationVar(&s.timeout, "timeout", time.Minute, "with --smtp: longest wait for an answer")
}

func (s *smtpFlags) check(c *cobra.Command) error {
	if s.tls != "none" && s.tls != "starttls" && s.tls != "implicit" {
		return usagef("--tls %q is not none, starttls or implicit", s.tls)
	}
	for _, name := range []string{"tls", "insecure", "user", "helo", "timeout"} {
		if s.addr == "" && c.Flags().Changed(name) {
			return usagef("--%s goes with --smtp", name)
		}
	}
	if s.helo == "" {
		s.helo = "localhost"
		if name, err := os.Hostname(); err == nil && name != "" {
			s.helo = name
		}
	}
	return nil
}

// sendSMTP sends all messages over one connection.
func (a *app) sendSMTP(ctx context.Context, f *sendFlags) error {
	secret := ""
	if f.smtp.user != "" {
		var err error
		if secret, err = f.password.read(a); err != nil {
			return err
		}
	}
	config, err := a.smtpTLS(f)
	if err != nil {
		return err
	}
	heard := func(string) {}
	if f.verbose {
		heard = func(line string) { a.note("%s", clean(line)) }
	}
	server := smtptalk.Server{Addr: hostPort(f.smtp.addr, "25"), TLS: f.smtp.tls, User: f.smtp.user, Helo: f.smtp.helo,
		Timeout: f.smtp.timeout}
	d, err := smtptalk.Dial(ctx, server, config, heard)
	if err != nil {
		return err
	}
	defer d.Close()
	// A cancelled context ends whatever the dialogue waits for.
	defer context.AfterFunc(ctx, d.Close)()
	if err := d.Open(ctx, server, config, secret); err != nil {
		return err
	}
	err = a.sendAll(f, func() (*admin.Receipt, error) {
		message, err := f.message(a.now())
		if err != nil {
			return nil, err
		}
		return d.Send(f.letter.From, f.letter.To, message)
	})
	if err != nil {
		return err
	}
	d.Quit()
	return nil
}

func (a *app) smtpTLS(f *sendFlags) (*tls.Config, error) {
	host, _, _ := net.SplitHostPort(hostPort(f.smtp.addr, "25"))
	config := &tls.Config{ServerName: host, InsecureSkipVerify: f.smtp.insecure, MinVersion: tls.VersionTLS12}
	if ca := cmp.Or(a.link.CA, a.getenv("RELAY_CA")); ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("the CA file can not be read: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	return config, nil
}
