package realmail

import (
	"bytes"
	"math"
	"strings"
)

// common are words in about the order of their frequency in letters. Rarer ones are made
// of stems and endings.
const common = `the to and of a in is for you I that it on with be this are we have as not your if will can at or
our from my by please was but an all me so has do any would just which they there what know time up out about when
one more get no new need some like us been see here how also then only may who had now think could after next let
mail use week work them other make were did these good day very first same still want back should made over does
help two sure much well he those send year before last way going thank into because take set than their meeting
every where today his being many order both between call date while report change number find give list team most
point question since another come part group free available page information account service support contact
email office data system program project business company price product offer customer invoice payment account
address phone message letter answer page market people group government process problem result idea plan case`

// stems and endings make some thousand rarer words.
const (
	stems = `act adapt admin agree allow appear apply arrang assign attend avail balanc bank base begin benefit bill
board book break bring budget build calcul cancel captur carri charg check choos claim clear close collect command
comment commit compar complet comput condit confer confirm connect consid construct consult contain continu control
convers correct cost cover creat credit current decid declar default defin deliver demand depend deposit deriv
describ design detail determin develop differ direct discuss display distribut divid document draft earn edit
effect elect employ enabl engag ensur enter equip establish estim evalu event examin exchang execut exist expand
expect experi explain export express extend factor fail featur field figur file filter final financ follow forecast
form forward found function fund gener govern grant guarant handl happen histor host identifi illustr impact
implement import improv includ increas indic industr inform initi inspect instal instruct insur integr intend
interest intern introduc invest invit involv issu item journal judg keep label launch learn legal level licens limit
link local locat maintain manag manufactur mark match matter measur member mention method minist model modern
monitor negoti network note notic object observ obtain occur offic open oper opinion option organ origin outlin
packag paint panel paper partner pass pattern perform period person place point polic posit possibl practic prefer
prepar present press prevent print prior process produc profess profit promot propos protect provid public purchas
qualif quarter quot rang reach react read reason receiv recommend record reduc refer reflect regist regul reject
relat releas remain remind remov repeat replac repres request requir research reserv resolv respond restor restrict
retail retain return review revis reward rout sampl schedul search season secur select sens separ serv session
settl share shift ship signal simpl solut sourc special specif spend staff standard state station store strateg
structur studi submit success suggest suppli surpris survey switch target techn test theor track trade train
transfer transform translat transport travel treat trust typic understand union updat upgrad valid valu vari verif
version view visit volum vote warn watch wonder write`
	endings = `|e|ed|ing|s|es|er|ers|ion|ions|ment|ments|able|al|ally|ity|ive|or|ance`
)

// vocabulary returns all words, the most frequent first.
func vocabulary() (all []string) {
	all = strings.Fields(common)
	for _, ending := range strings.Split(endings, "|") {
		for _, stem := range strings.Fields(stems) {
			all = append(all, stem+ending)
		}
	}
	return all
}

// word draws one by Zipf's law: the nth word comes 1/n times as often as the first one.
func (m *Maker) word() string {
	n := int(math.Exp(m.rng.Float64()*math.Log(float64(len(m.words))))) - 1
	return m.words[min(n, len(m.words)-1)]
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// said is how many of the last words of a message its writer comes back to.
const said = 256

// sentence has about n words. Some of it says again what the message said before.
func (m *Maker) sentence(n int) string {
	var b strings.Builder
	b.WriteString(capital(m.next()))
	for range n/2 + m.rng.IntN(n) {
		switch m.rng.IntN(30) {
		case 0:
			b.WriteByte(',')
		case 1:
			b.WriteString(" " + capital(m.word()))
		case 2:
			b.WriteString(" " + m.number())
		}
		b.WriteString(" " + m.next())
	}
	return b.String()
}

// next is the next word: the one that followed before where something is said again,
// else a new one.
func (m *Maker) next() string {
	if m.again == 0 && len(m.said) > 8 && m.rng.IntN(12) == 0 {
		m.again, m.place = 2+m.rng.IntN(4), m.rng.IntN(len(m.said)-6)
	}
	w := m.word()
	if m.again > 0 {
		w = m.said[m.place]
		m.again--
		m.place++
	}
	if m.said = append(m.said, w); len(m.said) > said {
		m.said, m.place = m.said[1:], max(m.place-1, 0)
	}
	return w
}

func (m *Maker) number() string {
	const digits = "0123456789"
	p := []byte{digits[1+m.rng.IntN(9)]}
	for range m.rng.IntN(5) {
		p = append(p, digits[m.rng.IntN(10)])
	}
	return string(p)
}

// prose writes paragraphs until the message has size octets.
func (m *Maker) prose(b *bytes.Buffer, size int) {
	for b.Len() < size {
		column := 0
		for range 2 + m.rng.IntN(5) {
			for _, w := range strings.Fields(m.sentence(12) + ".") {
				if column+len(w) > 72 {
					b.WriteString("\r\n")
					column = 0
				} else if column > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(w)
				column += len(w) + 1
			}
			if b.Len() >= size {
				break
			}
		}
		b.WriteString("\r\n\r\n")
	}
}
