package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"relay/deploy/bench/realmail"
)

// realMail is the value of -mail that has mail look real.
const realMail = "real"

// realPool is how many octets of mail a row sends in turns: more than any cache holds.
const realPool = 16 << 20

// realRows are the loads of -mail real. The larger the messages are, the fewer there are.
func (b *bench) realRows() (rows []row) {
	for _, size := range []int{4, 16, 64, 256, 1024} {
		l := load{messages: max(b.n*16/max(size, 16), 20), sessions: 20, size: size << 10, drain: true}
		l.mail = sync.OnceValue(func() [][]byte {
			all := realmail.New(1).Mix(min(max(realPool/l.size, 16), l.messages), l.size)
			for i, one := range all {
				all[i] = doubleDots(one)
			}
			return all
		})
		name := fmt.Sprintf("accept and relay %d KiB that look real, 20 sessions", size)
		rows = append(rows, b.loadRow(name, l))
	}
	return rows
}

// doubleDots makes of a message what DATA sends of it.
func doubleDots(mail []byte) []byte {
	return append(bytes.ReplaceAll(mail, []byte("\n."), []byte("\n..")), ".\r\n"...)
}

// handIn sends a load's mail, and returns how long it took until all was accepted.
func handIn(ctx context.Context, addrs []string, l load) (time.Duration, error) {
	senders, hangUp, err := openSenders(ctx, addrs, l.sessions)
	defer hangUp()
	if err != nil {
		return 0, err
	}
	free := make(chan *sender, len(senders))
	for _, s := range senders {
		free <- s
	}
	mail := l.mail()
	begin := time.Now()
	err = each(ctx, l.sessions, l.messages, func(i int) error {
		s := <-free
		defer func() { free <- s }()
		return s.hand(mail[i%len(mail)])
	})
	return time.Since(begin), err
}

// hand sends one message, which ends with its final dot.
func (s *sender) hand(mail []byte) error {
	const envelope = "MAIL FROM:<sender@bench.example>\r\nRCPT TO:<rcpt@far.example>\r\nDATA\r\n"
	if err := s.say(envelope, 250, 250, 354); err != nil {
		return err
	}
	if _, err := s.conn.Write(mail); err != nil {
		return err
	}
	return s.say("", 250)
}
