package pop3

import "strconv"

// text names a reply's words. %1 and %2 stand for numbers, %s for a string.
type text uint8

const (
	tReady text = iota
	tUnknown
	tNotNow
	tAsleep
	tSyntax
	tTooLong
	tBye
	tByeDeleted
	tCapa
	tNeedTLS
	tBeginTLS
	tTLSOn
	tNoTLS
	tTLSAfterUTF8
	tUser
	tUserFirst
	tMaildrop
	tBadCredentials
	tInUse
	tInUseSince
	tOnNode
	tLoginDelay
	tThrottled
	tPermanent
	tTemporary
	tUnsaved
	tUncertain
	tLostToOperator
	tLostMajority
	tLostSession
	tLostState
	tLostRemoved
	tLostDisabled
	tLostPassword
	tReadOnly
	tMechanisms
	tNoMechanism
	tCancelled
	tBadBase64
	tBadResponse
	tUTF8
	tLangList
	tLangSet
	tLangUnknown
	tOctets
	tMessages
	tUIDs
	tNoSuch
	tNoSuchUID
	tDeletedBefore
	tDeleted
	tGone
	tReset
	tNoop
	tSlept
	tSleepers
	tAwakeNew
	tAwakeNone
	tLoggedOut
	tTop
	tTooMany
	tTooManyErrors
	tStopping
	tOutOfService
	tNotReady
	numTexts
)

// lang is a language of replies.
type lang uint8

const (
	english lang = iota
	german
	french
	spanish
	chinese
	numLangs
)

// tags and their names in the language itself (RFC 6856 §3).
var langs = [numLangs]struct{ tag, name string }{
	{"en", "English"},
	{"de", "Deutsch"},
	{"fr", "Français"},
	{"es", "Español"},
	{"zh", "中文"},
}

// texts are the words behind +OK and -ERR. They never change.
var texts = [numTexts][numLangs]string{
	tReady: {"%s POP3 server ready", "%s POP3-Server bereit", "%s serveur POP3 prêt",
		"%s servidor POP3 listo", "%s POP3 服务器就绪"},
	tUnknown: {"unknown command", "unbekannter Befehl", "commande inconnue", "orden desconocida", "未知命令"},
	tNotNow: {"command not valid in this state", "Befehl in diesem Zustand nicht erlaubt",
		"commande non valable dans cet état", "orden no válida en este estado", "当前状态下不能使用此命令"},
	tAsleep: {"session is asleep; use WAKE, NOOP or QUIT", "Sitzung schläft; WAKE, NOOP oder QUIT benutzen",
		"session en sommeil ; utilisez WAKE, NOOP ou QUIT", "sesión dormida; use WAKE, NOOP o QUIT",
		"会话休眠中；请用 WAKE、NOOP 或 QUIT"},
	tSyntax: {"bad arguments", "falsche Argumente", "arguments incorrects", "argumentos incorrectos", "参数错误"},
	tTooLong: {"command line too long", "Befehlszeile zu lang", "ligne de commande trop longue",
		"línea de orden demasiado larga", "命令行过长"},
	tBye: {"bye", "auf Wiedersehen", "au revoir", "adiós", "再见"},
	tByeDeleted: {"bye, %1 messages deleted", "auf Wiedersehen, %1 Nachrichten gelöscht", "au revoir, %1 messages effacés",
		"adiós, %1 mensajes borrados", "再见，已删除 %1 封邮件"},
	tCapa: {"capability list follows", "Liste der Fähigkeiten folgt", "liste des capacités",
		"lista de capacidades", "功能列表如下"},
	tNeedTLS: {"TLS is needed before a login", "vor der Anmeldung ist TLS nötig",
		"TLS est nécessaire avant la connexion", "se necesita TLS antes de entrar", "登录前需要 TLS"},
	tBeginTLS: {"begin TLS", "TLS beginnen", "commencez TLS", "comience TLS", "开始 TLS"},
	tTLSOn:    {"TLS is on already", "TLS ist schon aktiv", "TLS est déjà actif", "TLS ya está activo", "TLS 已启用"},
	tNoTLS: {"TLS is not available", "TLS ist nicht verfügbar", "TLS n'est pas disponible",
		"TLS no está disponible", "TLS 不可用"},
	tTLSAfterUTF8: {"STLS has to come before UTF8", "STLS muss vor UTF8 kommen", "STLS doit précéder UTF8",
		"STLS debe preceder a UTF8", "STLS 必须在 UTF8 之前"},
	tUser:      {"send the password", "Passwort senden", "envoyez le mot de passe", "envíe la contraseña", "请发送密码"},
	tUserFirst: {"USER has to come first", "zuerst kommt USER", "USER d'abord", "primero USER", "请先发送 USER"},
	tMaildrop: {"maildrop has %1 messages (%2 octets)", "%1 Nachrichten (%2 Oktette) im Postfach",
		"la boîte contient %1 messages (%2 octets)", "el buzón tiene %1 mensajes (%2 octetos)", "邮箱中有 %1 封邮件（%2 字节）"},
	tBadCredentials: {"wrong user or password", "Benutzer oder Passwort falsch", "utilisateur ou mot de passe incorrect",
		"usuario o contraseña incorrectos", "用户名或密码错误"},
	tInUse: {"maildrop is in use", "Postfach ist in Benutzung", "la boîte est déjà utilisée",
		"el buzón está en uso", "邮箱正在使用中"},
	tInUseSince: {"maildrop is in use since %s", "Postfach ist in Benutzung, seit %s",
		"la boîte est utilisée depuis %s", "el buzón está en uso desde %s", "邮箱正在使用中，始于 %s"},
	tOnNode: {" on node %s", ", auf Knoten %s", " sur le nœud %s", " en el nodo %s", "，节点 %s"},
	tLoginDelay: {"logged in too recently", "letzte Anmeldung zu kurz her", "dernière connexion trop récente",
		"último acceso demasiado reciente", "登录过于频繁"},
	tThrottled: {"too many failed logins, try again later", "zu viele falsche Anmeldungen, später wieder versuchen",
		"trop d'échecs, réessayez plus tard", "demasiados intentos fallidos, inténtelo más tarde", "登录失败次数过多，请稍后再试"},
	tPermanent: {"the maildrop needs the administrator's attention", "das Postfach braucht den Verwalter",
		"la boîte requiert l'administrateur", "el buzón requiere al administrador", "邮箱需要管理员处理"},
	tTemporary: {"temporary failure, try again later", "vorübergehende Störung, später wieder versuchen",
		"panne temporaire, réessayez plus tard", "fallo temporal, inténtelo más tarde", "暂时故障，请稍后再试"},
	tUnsaved: {"deletions could not be saved, nothing was deleted",
		"Löschen nicht gespeichert, nichts wurde gelöscht", "suppressions non enregistrées, rien n'a été effacé",
		"no se guardó el borrado, no se borró nada", "删除未能保存，未删除任何邮件"},
	tUncertain: {"it is not known whether the deletions were saved, log in again to see",
		"unbekannt, ob das Löschen gespeichert wurde; neu anmelden und nachsehen",
		"impossible de savoir si les suppressions ont été enregistrées, reconnectez-vous pour vérifier",
		"no se sabe si se guardó el borrado, entre de nuevo para comprobarlo", "无法确定删除是否已保存，请重新登录查看"},
	tLostToOperator: {LostToOperator, "der Verwalter hat die Sperre aufgehoben, vorgemerkte Nachrichten bleiben",
		"l'administrateur a levé le verrou, les messages marqués sont conservés",
		"el administrador ha roto el bloqueo, los mensajes marcados se conservan", "管理员已解除锁定，已标记的邮件予以保留"},
	tLostMajority: {LostMajority, "dieser Knoten hat die Mehrheit verloren, vorgemerkte Nachrichten bleiben",
		"ce nœud a perdu le contact avec la majorité, les messages marqués sont conservés",
		"este nodo ha perdido el contacto con la mayoría, los mensajes marcados se conservan", "此节点已与多数节点失去联系，已标记的邮件予以保留"},
	tLostSession: {LostSession, "die Sitzung dieses Knotens ist zu Ende, und damit seine Sperren; vorgemerkte " +
		"Nachrichten bleiben", "la session de ce nœud est terminée, et ses verrous avec elle ; les messages marqués " +
		"sont conservés", "la sesión de este nodo ha terminado, y con ella sus bloqueos; los mensajes marcados se conservan",
		"此节点的会话已结束，其锁定随之失效；已标记的邮件予以保留"},
	tLostState: {LostState, "der Zustand dieses Knotens wurde durch einen neueren ersetzt, vorgemerkte " +
		"Nachrichten bleiben", "l'état de ce nœud a été remplacé par un plus récent, les messages marqués sont conservés",
		"el estado de este nodo fue sustituido por otro más nuevo, los mensajes marcados se conservan",
		"此节点的状态已被较新的状态取代，已标记的邮件予以保留"},
	tLostRemoved: {LostRemoved, "Ihr Konto wurde gelöscht, und die Post darin",
		"votre compte a été supprimé, et son courrier avec lui",
		"su cuenta fue eliminada, y su correo con ella", "您的帐户及其邮件已被删除"},
	tLostDisabled: {LostDisabled, "Ihr Konto wurde gesperrt, vorgemerkte Nachrichten bleiben",
		"votre compte a été désactivé, les messages marqués sont conservés",
		"su cuenta fue desactivada, los mensajes marcados se conservan", "您的帐户已被停用；已标记的邮件予以保留"},
	tLostPassword: {LostPassword, "Ihr Passwort wurde geändert, bitte mit dem neuen anmelden; vorgemerkte " +
		"Nachrichten bleiben", "votre mot de passe a été changé, connectez-vous avec le nouveau ; les messages marqués " +
		"sont conservés", "su contraseña fue cambiada, entre con la nueva; los mensajes marcados se conservan",
		"您的密码已更改，请使用新密码登录；已标记的邮件予以保留"},
	tReadOnly: {"the maildrop is read-only", "das Postfach ist schreibgeschützt", "la boîte est en lecture seule",
		"el buzón es de solo lectura", "邮箱为只读"},
	tMechanisms: {"mechanisms follow", "Verfahren folgen", "liste des mécanismes", "lista de mecanismos", "认证机制如下"},
	tNoMechanism: {"unknown mechanism", "unbekanntes Verfahren", "mécanisme inconnu",
		"mecanismo desconocido", "未知认证机制"},
	tCancelled: {"authentication cancelled", "Anmeldung abgebrochen", "authentification annulée",
		"autenticación cancelada", "认证已取消"},
	tBadBase64: {"that is not base64", "das ist kein Base64", "ce n'est pas du base64",
		"eso no es base64", "不是有效的 base64"},
	tBadResponse: {"malformed response", "fehlerhafte Antwort", "réponse mal formée",
		"respuesta mal formada", "应答格式错误"},
	tUTF8:     {"UTF8 mode", "UTF8-Modus", "mode UTF8", "modo UTF8", "UTF8 模式"},
	tLangList: {"languages follow", "Sprachen folgen", "liste des langues", "lista de idiomas", "语言列表如下"},
	tLangSet:  {"language changed", "Sprache geändert", "langue modifiée", "idioma cambiado", "语言已更改"},
	tLangUnknown: {"that language is not spoken here", "diese Sprache wird hier nicht gesprochen",
		"cette langue n'est pas parlée ici", "ese idioma no se habla aquí", "不支持该语言"},
	tOctets: {"%1 octets", "%1 Oktette", "%1 octets", "%1 octetos", "%1 字节"},
	tMessages: {"%1 messages (%2 octets)", "%1 Nachrichten (%2 Oktette)", "%1 messages (%2 octets)",
		"%1 mensajes (%2 octetos)", "%1 封邮件（%2 字节）"},
	tUIDs: {"unique ids follow", "eindeutige Kennungen folgen", "liste des identifiants uniques",
		"lista de identificadores únicos", "唯一标识列表如下"},
	tNoSuch: {"no such message", "keine solche Nachricht", "message inexistant", "no existe tal mensaje", "没有此邮件"},
	tNoSuchUID: {"no message has that unique id", "keine Nachricht hat diese Kennung",
		"aucun message n'a cet identifiant", "ningún mensaje tiene ese identificador", "没有邮件具有此唯一标识"},
	tDeletedBefore: {"message has been deleted", "Nachricht ist gelöscht", "message déjà effacé",
		"el mensaje ya está borrado", "邮件已被删除"},
	tDeleted: {"message %1 marked for deletion", "Nachricht %1 zum Löschen vorgemerkt",
		"message %1 marqué pour suppression", "mensaje %1 marcado para borrar", "邮件 %1 已标记为删除"},
	tGone: {"message %1 deleted for good", "Nachricht %1 endgültig gelöscht", "message %1 effacé définitivement",
		"mensaje %1 borrado definitivamente", "邮件 %1 已永久删除"},
	tReset: {"maildrop has %1 messages (%2 octets)", "%1 Nachrichten (%2 Oktette) im Postfach",
		"la boîte contient %1 messages (%2 octets)", "el buzón tiene %1 mensajes (%2 octetos)", "邮箱中有 %1 封邮件（%2 字节）"},
	tNoop: {"nothing done", "nichts getan", "rien fait", "nada hecho", "无操作"},
	tSlept: {"deleted %1 messages, sleeping", "%1 Nachrichten gelöscht, schlafe",
		"%1 messages effacés, en sommeil", "%1 mensajes borrados, durmiendo", "已删除 %1 封邮件，进入休眠"},
	tSleepers: {"too many sleeping sessions", "zu viele schlafende Sitzungen", "trop de sessions en sommeil",
		"demasiadas sesiones dormidas", "休眠会话过多"},
	tAwakeNew: {"awake, there is new mail: %1 messages (%2 octets)", "wach, neue Post: %1 Nachrichten (%2 Oktette)",
		"éveillé, nouveau courrier : %1 messages (%2 octets)",
		"despierto, correo nuevo: %1 mensajes (%2 octetos)", "已唤醒，有新邮件：%1 封（%2 字节）"},
	tAwakeNone: {"awake, no new mail: %1 messages (%2 octets)", "wach, keine neue Post: %1 Nachrichten (%2 Oktette)",
		"éveillé, pas de nouveau courrier : %1 messages (%2 octets)",
		"despierto, sin correo nuevo: %1 mensajes (%2 octetos)", "已唤醒，没有新邮件：%1 封（%2 字节）"},
	tLoggedOut: {"logged out, %1 messages deleted", "abgemeldet, %1 Nachrichten gelöscht",
		"déconnecté, %1 messages effacés", "sesión cerrada, %1 mensajes borrados", "已注销，已删除 %1 封邮件"},
	tTop: {"top of message follows", "Anfang der Nachricht folgt", "début du message",
		"comienzo del mensaje", "邮件开头如下"},
	tTooMany: {"too many connections, try again later", "zu viele Verbindungen, später wieder versuchen",
		"trop de connexions, réessayez plus tard", "demasiadas conexiones, inténtelo más tarde", "连接过多，请稍后再试"},
	tTooManyErrors: {"too many errors, goodbye", "zu viele Fehler, auf Wiedersehen", "trop d'erreurs, au revoir",
		"demasiados errores, adiós", "错误过多，再见"},
	tStopping: {"server is stopping, nothing was deleted", "Server hält an, nichts wurde gelöscht",
		"le serveur s'arrête, rien n'a été effacé", "el servidor se detiene, no se borró nada", "服务器正在停止，未删除任何邮件"},
	tNotReady: {"server is not ready yet, try again later", "Server ist noch nicht bereit, bitte später versuchen",
		"le serveur n'est pas encore prêt, réessayez plus tard", "el servidor aún no está listo, inténtelo más tarde",
		"服务器尚未就绪，请稍后重试"},
	tOutOfService: {"server is going out of service, connect again; nothing was deleted",
		"Server geht außer Betrieb, bitte neu verbinden; nichts wurde gelöscht",
		"le serveur est mis hors service, reconnectez-vous ; rien n'a été effacé",
		"el servidor queda fuera de servicio, vuelva a conectarse; no se borró nada", "服务器即将停止服务，请重新连接；未删除任何邮件"},
}

// losses are the reasons to lose a maildrop that have words in every language.
var losses = map[string]reason{
	LostToOperator: {text: tLostToOperator}, LostMajority: {text: tLostMajority}, LostSession: {text: tLostSession},
	LostState: {text: tLostState}, LostRemoved: {text: tLostRemoved, code: "SYS/PERM"},
	LostDisabled: {text: tLostDisabled, code: "SYS/PERM"}, LostPassword: {text: tLostPassword, code: "AUTH"},
}

// appendText appends a text with its numbers and its string put in.
func appendText(dst []byte, t text, l lang, s string, n ...int64) []byte {
	words := texts[t][l]
	from := 0
	for i := 0; i+1 < len(words); i++ {
		if words[i] != '%' {
			continue
		}
		dst = append(dst, words[from:i]...)
		switch arg := words[i+1]; arg {
		case 's':
			dst = append(dst, s...)
		default:
			dst = strconv.AppendInt(dst, n[arg-'1'], 10)
		}
		i++
		from = i + 1
	}
	return append(dst, words[from:]...)
}
