package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
)

// recorder stands between a mail program and a node and writes down what they
// say. TLS ends in it on both sides: as the node's own name, with the cluster's
// certificate.
type recorder struct {
	d    *Dev
	port string
	conf *tls.Config // as a server and as a client

	mu        sync.Mutex
	target    string // of the next connection
	from      string // its local address; "": as the system likes
	implicit  bool   // TLS from the first octet
	at        string // in a reply that has this text the connection breaks off; "": in none
	act       func() // before that, once
	dialogues []*dialogue
}

// dialogue is one connection, its turns in order.
type dialogue struct {
	turns []turn
	ended bool
}

// turn is what one side said before the other said something, or an event.
type turn struct {
	who  byte // C, S, or = for an event
	text string
}

// record listens on a free port until the test ends.
func (d *Dev) record(target string) *recorder {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(d.t, err)
	own, err := tls.LoadX509KeyPair(filepath.Join(d.Dir, "tls.crt"), filepath.Join(d.Dir, "tls.key"))
	require.NoError(d.t, err)
	pem, err := os.ReadFile(d.CA())
	require.NoError(d.t, err)
	roots := x509.NewCertPool()
	require.True(d.t, roots.AppendCertsFromPEM(pem))
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(d.t, err)
	r := &recorder{d: d, port: port, target: target,
		conf: &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: "localhost"}}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.serve(ctx, conn) })
		}
	})
	d.t.Cleanup(func() { _ = l.Close(); cancel(); all.Wait() })
	return r
}

// to sends the connections from now on to another port of a node.
func (r *recorder) to(target, from string, implicit bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target, r.from, r.implicit = target, from, implicit
}

// cutAt breaks a connection off, once, inside the first reply that has the text:
// the client does not see its last octets. Before that it calls act, unless nil.
func (r *recorder) cutAt(text string, act func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at, r.act = text, act
}

func (r *recorder) serve(ctx context.Context, client net.Conn) {
	r.mu.Lock()
	target, from, implicit := r.target, r.from, r.implicit
	dlg := &dialogue{}
	r.dialogues = append(r.dialogues, dlg)
	r.mu.Unlock()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	server, err := dialer.DialContext(ctx, "tcp", target)
	if err == nil {
		p := &pair{r: r, dlg: dlg, client: client, server: server, upgraded: make(chan bool, 1)}
		stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = server.Close() })
		if !implicit || p.upgrade() == nil {
			p.carry()
		}
		stop()
		_ = server.Close()
	}
	_ = client.Close()
	r.mu.Lock()
	dlg.ended = true
	r.mu.Unlock()
}

func (r *recorder) note(dlg *dialogue, who byte, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(dlg.turns) - 1
	if last >= 0 && who != '=' && dlg.turns[last].who == who {
		dlg.turns[last].text += text
	} else {
		dlg.turns = append(dlg.turns, turn{who, text})
	}
}

// meets reports whether the connection breaks off in a reply.
func (r *recorder) meets(reply string) bool {
	r.mu.Lock()
	meant, act := r.at != "" && strings.Contains(reply, r.at), r.act
	if meant {
		r.at, r.act = "", nil
	}
	r.mu.Unlock()
	if meant && act != nil {
		act()
	}
	return meant
}

// ended reports whether so many dialogues have been, and all are over.
func (r *recorder) ended(count int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := slices.ContainsFunc(r.dialogues, func(dlg *dialogue) bool { return !dlg.ended })
	return len(r.dialogues) >= count && !open
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.dialogues)
}

// forget empties the record.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dialogues = nil
}

// String is the record in the form that package wiretest plays.
func (r *recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out strings.Builder
	for i, dlg := range r.dialogues {
		if i > 0 {
			out.WriteString("=== connect\n")
		}
		for _, t := range dlg.turns {
			if t.who == '=' {
				fmt.Fprintf(&out, "=== %s\n", t.text)
				continue
			}
			for line := range strings.SplitSeq(strings.TrimSuffix(t.text, "\r\n"), "\r\n") {
				fmt.Fprintf(&out, "%c: %s\n", t.who, line)
			}
		}
	}
	return out.String()
}

// commands are the lines that the client said in each dialogue, without those of
// messages.
func (r *recorder) commands() (all [][]string) { return commandsIn(r.String()) }

// commandsIn reads a transcript of wiretest as far as the client's side goes, and
// passes over connections with a name: they are another client's.
func commandsIn(transcript string) [][]string {
	all, other, inData := [][]string{nil}, false, false
	for line := range strings.SplitSeq(transcript, "\n") {
		command, isCommand := strings.CutPrefix(line, "C: ")
		last := len(all) - 1
		switch {
		case line == "=== connect":
			all, other = append(all, nil), false
		case strings.HasPrefix(line, "=== connect "):
			other = true
		case strings.HasPrefix(line, "=== use "):
			other = line != "=== use 1"
		case !isCommand || other:
		case inData:
			inData = command != "."
		default:
			all[last] = append(all[last], command)
			inData = command == "DATA"
		}
	}
	return all
}

// pair is the two connections of a dialogue.
type pair struct {
	r              *recorder
	dlg            *dialogue
	client, server net.Conn
	asked          atomic.Bool // by the client for TLS
	upgraded       chan bool   // what became of that
}

func (p *pair) close() {
	_ = p.server.Close()
	_ = p.client.Close()
}

// upgrade puts TLS on both sides.
func (p *pair) upgrade() error {
	client, server := tls.Server(p.client, p.r.conf), tls.Client(p.server, p.r.conf)
	p.client, p.server = client, server
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return errors.Join(server.HandshakeContext(ctx), client.HandshakeContext(ctx))
}

// carry passes on what is said until one side has closed.
func (p *pair) carry() {
	done := make(chan struct{})
	go func() { p.replies(); close(done) }()
	p.requests()
	<-done
}

func (p *pair) requests() {
	buf := make([]byte, 64<<10)
	client, server := p.client, p.server
	for {
		n, err := client.Read(buf)
		if err != nil {
			_ = server.Close()
			return
		}
		p.r.note(p.dlg, 'C', string(buf[:n]))
		word := strings.TrimSpace(string(buf[:n]))
		tls := word == "STLS" || word == "STARTTLS"
		p.asked.Store(tls)
		if _, err = server.Write(buf[:n]); err != nil {
			_ = client.Close()
			return
		}
		if tls && <-p.upgraded {
			client, server = p.client, p.server
		}
	}
}

func (p *pair) replies() {
	buf := make([]byte, 64<<10)
	defer close(p.upgraded)
	for {
		n, err := p.server.Read(buf)
		if err != nil {
			_ = p.client.Close()
			return
		}
		tls := p.asked.Load()
		cut := p.r.meets(string(buf[:n]))
		if cut {
			n = max(n-3, 0)
		}
		p.r.note(p.dlg, 'S', string(buf[:n]))
		if _, err = p.client.Write(buf[:n]); err != nil || cut {
			p.r.note(p.dlg, '=', "close")
			p.close()
			return
		}
		if tls {
			p.asked.Store(false)
			good := buf[0] == '+' || buf[0] == '2'
			if good {
				p.r.note(p.dlg, '=', "starttls")
				if p.upgrade() != nil {
					p.close()
					return
				}
			}
			p.upgraded <- good
		}
	}
}
