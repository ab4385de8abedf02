package pop3_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"relay/pop3"
	"relay/pop3/pop3test"
)

// model is what a session has to look like, kept in the plainest way.
type model struct {
	list   []string        // unique ids, by number
	sizes  map[string]int  // by unique id
	marked map[string]bool // DELE
	gone   map[string]bool // DELI
	store  []string        // what the maildrop holds, by arrival
}

func (m *model) open() {
	m.list = slices.Clone(m.store)
	m.marked, m.gone = map[string]bool{}, map[string]bool{}
}

func (m *model) left() (n int, octets int64) {
	for _, uid := range m.list {
		if !m.marked[uid] && !m.gone[uid] {
			n++
			octets += int64(m.sizes[uid])
		}
	}
	return n, octets
}

func (m *model) remove(uid string) {
	m.store = slices.DeleteFunc(m.store, func(s string) bool { return s == uid })
}

func (m *model) commit() {
	for uid := range m.marked {
		m.remove(uid)
	}
}

// TestModel plays random commands and compares every answer, and in the end
// the maildrop, with a model.
func TestModel(t *testing.T) {
	store := pop3test.NewStore("example.test")
	s := serve(t, config(store), false)
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		user := fmt.Sprint("user", run)
		store.AddUser(user, "secret")
		m := &model{sizes: map[string]int{}}
		deliver := func(r *rapid.T) {
			body := fmt.Sprintf("Subject: x\r\n\r\n%s\r\n", rapid.StringMatching(`[.a\n]{0,8}`).Draw(r, "body"))
			uid := store.Deliver(user, body)
			m.sizes[uid] = len(body)
			m.store = append(m.store, uid)
		}
		for range rapid.IntRange(0, 4).Draw(r, "mail") {
			deliver(r)
		}
		c, err := pop3.Dial(t.Context(), s.addr, nil)
		require.NoError(r, err)
		defer c.Close()
		login := func(*rapid.T) {
			require.NoError(r, c.Login(t.Context(), user, "secret"))
			m.open()
		}
		login(r)
		number := func(r *rapid.T) (int, string, bool) {
			n := rapid.IntRange(0, len(m.list)+1).Draw(r, "n")
			if n < 1 || n > len(m.list) {
				return n, "", false
			}
			uid := m.list[n-1]
			return n, uid, !m.marked[uid] && !m.gone[uid]
		}
		answered := func(r *rapid.T, want bool, err error) {
			var refused *pop3.ReplyError
			if want {
				require.NoError(r, err)
			} else {
				require.True(r, errors.As(err, &refused), "%v", err)
			}
		}
		r.Repeat(map[string]func(*rapid.T){
			"deliver": deliver,
			"dele": func(r *rapid.T) {
				n, uid, ok := number(r)
				answered(r, ok, c.Dele(t.Context(), n))
				if ok {
					m.marked[uid] = true
				}
			},
			"deli": func(r *rapid.T) {
				n, uid, ok := number(r)
				answered(r, ok, c.Deli(t.Context(), n))
				if ok {
					m.gone[uid] = true
					m.remove(uid)
				}
			},
			"retr": func(r *rapid.T) {
				n, uid, ok := number(r)
				var got bytes.Buffer
				_, err := c.Retr(t.Context(), n, &got)
				answered(r, ok, err)
				if ok {
					require.Equal(r, m.sizes[uid], got.Len())
				}
			},
			"rset": func(r *rapid.T) {
				require.NoError(r, c.Reset(t.Context()))
				m.marked = map[string]bool{}
			},
			"sleep": func(r *rapid.T) {
				require.NoError(r, c.Sleep(t.Context()))
				m.commit()
				if rapid.Bool().Draw(r, "meanwhile") {
					deliver(r)
				}
				news := slices.ContainsFunc(m.store, func(uid string) bool { return !slices.Contains(m.list, uid) })
				got, err := c.Wake(t.Context())
				require.NoError(r, err)
				require.Equal(r, news, got)
				m.open()
			},
			"qaut": func(r *rapid.T) {
				_, err := c.Command(t.Context(), "QAUT")
				require.NoError(r, err)
				m.commit()
				login(r)
			},
			"": func(r *rapid.T) {
				n, octets, err := c.Stat(t.Context())
				require.NoError(r, err)
				wantN, wantOctets := m.left()
				require.Equal(r, wantN, n)
				require.Equal(r, wantOctets, octets)
				require.NoError(r, c.UIDL(t.Context(), func(n int, uid []byte) {
					require.Equal(r, m.list[n-1], string(uid))
					require.False(r, m.marked[string(uid)] || m.gone[string(uid)])
					wantN--
				}))
				require.Zero(r, wantN)
			},
		})
		require.NoError(r, c.Quit(t.Context()))
		m.commit()
		require.Equal(r, append([]string(nil), m.store...), append([]string(nil), store.UIDs(user)...))
	})
}
