package maildrop

import (
	"go.uber.org/zap"

	"relay/cluster/spool"
	"relay/node/statelog"
)

// removedEach is up to how many deletions of one POP3 session have lines at once.
// More go out of the store one by one later, and each has its line then.
const removedEach = spool.MaxTakeOut

// removing finds out which messages a POP3 session is about to delete, as long as
// they are still there.
func (m *maildrop) removing(uids []uint64) (ids [][]byte) {
	if len(uids) > removedEach || !m.drops.log.Core().Enabled(zap.InfoLevel) {
		return nil
	}
	_ = m.drops.replica.View(func(v spool.View) error {
		for _, uid := range uids {
			if e, ok, err := v.Entry(m.box, uid); ok && err == nil {
				ids = append(ids, e.Id)
			}
		}
		return nil
	})
	return ids
}

// logRemoved tells of what a POP3 session has deleted.
func (m *maildrop) logRemoved(ids [][]byte, count int) {
	about := []zap.Field{
		zap.String("mailbox", m.account.Address), zap.String("who", m.account.Address),
		zap.String("session", m.peer.Session), zap.Stringer("remote", m.peer.Remote),
	}
	if count > removedEach {
		m.drops.log.Info("removed many", append(about, zap.Int("count", count))...)
	}
	for _, id := range ids {
		m.drops.log.Info("removed", append([]zap.Field{statelog.IDField("id", id)}, about...)...)
	}
}
