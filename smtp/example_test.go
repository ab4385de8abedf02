package smtp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"

	"relay/smtp"
)

// printer is a backend that takes all mail and prints it.
type printer struct{}

func (printer) NewSession(context.Context, *smtp.Peer) (smtp.Session, error) { return printer{}, nil }

func (printer) Mail(_ context.Context, from string, _ *smtp.MailOptions) error {
	fmt.Println("from", from)
	return nil
}

func (printer) Rcpt(_ context.Context, to string, _ *smtp.RcptOptions) error {
	if !strings.HasSuffix(to, "@example.test") {
		return smtp.NewReply(550, "5.7.1", "no relaying")
	}
	fmt.Println("to", to)
	return nil
}

func (printer) Data(_ context.Context, r io.Reader) (string, error) {
	body, err := io.ReadAll(r)
	if err == nil {
		fmt.Printf("%q\n", body)
	}
	return "1", err // nil promises that the message is safe
}

func (printer) Reset()       {}
func (printer) Close() error { return nil }

// A server that prints what it takes, and a client that sends to two recipients, one
// of whom is refused.
func Example() {
	server, err := smtp.NewServer(smtp.ServerConfig{Hostname: "mx.example.test", Backend: printer{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, l) }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	client, err := smtp.NewClient(ctx, conn, smtp.ClientOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	replies, _ := client.Send(ctx, &smtp.Envelope{
		From: "me@example.org", To: []smtp.Rcpt{{Address: "alice@example.test"}, {Address: "bob@example.org"}},
	}, strings.NewReader("Subject: hello\r\n\r\nHi.\r\n"), nil)
	_ = client.Quit(ctx)
	stop()
	<-ended
	for _, r := range replies {
		fmt.Println(r.Code)
	}
	// Output:
	// from me@example.org
	// to alice@example.test
	// "Subject: hello\r\n\r\nHi.\r\n"
	// 250
	// 550
}
