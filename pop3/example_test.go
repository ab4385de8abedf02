package pop3_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"relay/pop3"
	"relay/pop3/pop3test"
)

// A server over a maildrop in memory, and a client that reads and deletes a message.
func Example() {
	store := pop3test.NewStore("example.test")
	store.AddUser("alice", "secret")
	store.Deliver("alice", "Subject: hello\r\n\r\nHi Alice.\r\n")
	server, err := pop3.NewServer(pop3.ServerConfig{
		Hostname: "mx.example.test", Backend: store,
		Trusted: func(netip.Addr) bool { return true }, // may log in without TLS
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- server.Serve(ctx, ln) }()

	client, err := pop3.Dial(ctx, ln.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := client.Login(ctx, "alice", "secret"); err != nil {
		fmt.Println(err)
		return
	}
	messages, _, _ := client.Stat(ctx)
	fmt.Println(messages, "message")
	var text strings.Builder
	_, _ = client.Retr(ctx, 1, &text)
	fmt.Print(strings.ReplaceAll(text.String(), "\r\n", "\n"))
	_ = client.Dele(ctx, 1)
	fmt.Println("quit:", client.Quit(ctx)) // the deletion is done where this is nil
	fmt.Println("left:", len(store.UIDs("alice")))
	stop()
	<-ended
	// Output:
	// 1 message
	// Subject: hello
	//
	// Hi Alice.
	// quit: <nil>
	// left: 0
}
