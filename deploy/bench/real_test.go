package main

import (
	"bufio"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/deploy/bench/realmail"
)

// listen takes n messages in one session, and passes on each as it was before its dots
// were doubled.
func listen(t *testing.T, n int) (addr string, took <-chan string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	messages := make(chan string, n)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		say := func(line string) { _, _ = io.WriteString(conn, line+"\r\n") }
		say("220 here")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			if !strings.HasPrefix(line, "DATA") {
				say("250 ok")
				continue
			}
			say("354 go on")
			mail, _ := io.ReadAll(textproto.NewReader(in).DotReader())
			messages <- string(mail)
			say("250 taken")
		}
	}()
	return l.Addr().String(), messages
}

func TestHandIn(t *testing.T) {
	addr, took := listen(t, 3)
	pool := [][]byte{[]byte("Subject: a\r\n\r\n..dot\r\n.\r\n"), []byte("Subject: b\r\n\r\ntext\r\n.\r\n")}
	_, err := handIn(t.Context(), []string{addr}, load{messages: 3, sessions: 1, mail: func() [][]byte { return pool }})
	require.NoError(t, err)
	require.Equal(t, "Subject: a\n\n.dot\n", <-took)
	require.Equal(t, "Subject: b\n\ntext\n", <-took)
	require.Equal(t, "Subject: a\n\n.dot\n", <-took)
}

func TestRealRows(t *testing.T) {
	b := &bench{cluster: &cluster{nodes: 1}, n: 3000, real: true}
	var work []int
	for _, r := range b.rows() {
		require.Contains(t, r.name, "look real")
		require.True(t, r.calm)
		work = append(work, r.work)
	}
	require.Equal(t, []int{3000, 3000, 750, 187, 46}, work)
	for _, one := range realmail.New(1).Mix(4, 4<<10) {
		sent := string(doubleDots(one))
		require.True(t, strings.HasSuffix(sent, "\r\n.\r\n"))
		got, err := io.ReadAll(textproto.NewReader(bufio.NewReader(strings.NewReader(sent))).DotReader())
		require.NoError(t, err)
		require.Equal(t, strings.ReplaceAll(string(one), "\r\n", "\n"), string(got))
	}
}

func TestMailIsFillerOrReal(t *testing.T) {
	o, err := parse([]string{"-mail", "real"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, realMail, o.mail)
	_, err = parse([]string{"-mail", "odd"}, io.Discard)
	require.ErrorContains(t, err, `filler or real, and not "odd"`)
}
