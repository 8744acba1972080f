"""The kinds of pages that stand in for a document: what they say of themselves, and the marks of what makes them.

Patterns are matched with text in lower case without apostrophes, its words separated by one blank. The words are those
of the programs that serve most such pages, in English; missing pages and log-ins in some more languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of page that stands in for a document.

    Args:
        is_what: what the page is, for the message.
        advice: what to do about it, for the message.
        named: matches the whole of a title, of its part, or of a main heading.
        told: matches the whole of such, or of a line. A line may be about a part of the page, such as a film.
        second: is found in the page's own text, and hardly in an article about the kind.
        marks: is found in the markup that a program writes for this kind alone.
    """

    is_what: str
    advice: str
    named: re.Pattern[str]
    told: re.Pattern[str]
    second: re.Pattern[str]
    marks: re.Pattern[str]


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


_NONE = re.compile(r"(?!)")
_ANYTHING = (
    "(?:page|site|website|content|document|article|story|file|post|topic|profile|product|item|resource|link|url"
    "|address)"
)
_PAGE = "(?:page|site|website|document|article|story|url|address)"


def _missing(thing: str) -> Iterator[str]:
    """Yield the patterns of sentences that say that there is no such thing."""
    asked = r"(?: (?:that )?you(?:re| are| were| have|ve)? (?:looking for|request\w*|trying to \w+|asked for))?"
    asked += r"(?: (?:in|on) (?:this|our|the) \w+)?"
    oops = (
        r"(?:(?:oops|whoops|sorry|uh oh|oh no|hmm|http|error|status|code|404|410|but|the|this|that|your|requested) )*"
    )
    yield rf"{oops}{thing} not found(?: error)?(?: 404)?"
    yield (
        rf"{oops}{thing}{asked} (?:(?:is|was|could|can|does|has)? ?"
        r"(?:not|no longer|cannot|cant|couldnt|isnt|wasnt|doesnt|hasnt)(?: be| been)? (?:found|available|exists?|here)"
        r"|(?:is )?unavailable|is gone|has (?:been )?(?:moved|removed|deleted))"
        r"(?: (?:anymore|any more|right now|here|or|on|at|and|it) ?.{0,60})?"
    )
    yield (
        rf"{oops}(?:we |i )?(?:cannot|cant|couldnt|could not|(?:were |are )?unable to) (?:seem to )?(?:find|locate) "
        rf"(?:the|that|this|your) {thing}{asked}"
    )


NOT_FOUND = Kind(
    is_what="one that says there is no such page",
    advice="correct the address",
    named=_any(
        *_missing(_ANYTHING),
        r"(?:(?:oops|sorry|http|error|404) )*(?:file or directory )?not found(?: error)?(?: 404)?",
        r"(?:http |status )?error 404|404 (?:error|page)(?: page)?|(?:http )?410 gone",
    ),
    told=_any(
        *_missing(_PAGE),
        r"(?:(?:fehler|error|404|die|angeforderte|gesuchte) )*seite (?:(?:wurde )?(?:leider )?nicht gefunden"
        r"|existiert nicht.{0,40}|konnte (?:leider )?nicht gefunden werden)",
        r"(?:(?:erreur|404|la|cette) )*page (?:introuvable|non trouvée|inexistante|demandée est introuvable)",
        r"(?:(?:error|errore|erro|404|la|a) )*p[aá]gina (?:no encontrada|não encontrada|non trovata|niet gevonden)",
        r"(?:la |a )?p[aá]gina (?:que (?:busca|buscas|solicita|procura) )?(?:no|não) existe.{0,60}",
        r"(?:404 )?(?:strona nie (?:została )?znaleziona|nie znaleziono strony|страница не найдена|sidan hittades inte"
        r"|siden (?:blev )?ikke fun[dn]et|sivua ei löydy|sayfa bulunamadı|ページが見つかりません(?:でした)?|页面不存在|"
        r"找不到页面|페이지를 찾을 수 없습니다)",
    ),
    second=_any(
        r"\byou(?:r|re| are| were|ve| have)? (?:looking|request|trying|tried|follow|typed|enter|search)",
        r"\bon this server\b|\btry (?:one of|a search|searching|again|our|using)",
        r"\b(?:back|return|go|take me|visit) (?:to )?(?:the |our )?(?:home|front|main|start)",
    ),
    marks=re.compile(
        r"""<body\s[^<>]*?["'\s](?:error-?404|template-404|page-404|page-not-found)(?=["'\s>])"""
        r"""|prerender-status-code["']\s+content=["']404|<h3>Apache Tomcat/\d""",
    ),
)

_LOG_IN_WORDS = r"(?:log ?(?:in|on)|sign ?(?:in|on))"
_TAIL = ".{0,40}"
_LOGGED = r"(?:log(?:ged)? ?(?:in|on)|sign(?:ed)? ?(?:in|on))"
_VIEW = (
    r"(?:view|see|access|read|open|visit) (?:this|the|that) (?:\w+ )?"
    "(?:page|content|site|forum|area|document|article|file|topic|profile|resource)"
)
LOG_IN = Kind(
    is_what="a log-in",
    advice="give a copy that opens without one",
    named=_any(
        rf"(?:please |members? |users? |customers? |account |client |secure |admin |staff )*{_LOG_IN_WORDS}"
        rf"(?: required| page| form| here| portal| (?:in)?to (?:\w+ ){{0,3}}\w+| (?:or )?(?:register|sign ?up|join))?",
        rf"sign ?up(?: now)?|(?:sign ?up|register|join) or {_LOG_IN_WORDS}",
        r"authentication required|members only",
        r"anmelden|einloggen|(?:se )?connecter|connexion|iniciar sesi[oó]n|acceder|accedi",
        r"entrar|iniciar sessão|inloggen|aanmelden|zaloguj się|logowanie|logga in|giriş yap|войти|вход|авторизация",
        r"ログイン|登录|登入|로그인",
    ),
    told=_any(
        rf"(?:sorry )?(?:but )?(?:please|you (?:must|need to|have to)(?: be)?) (?:first )?{_LOGGED}"
        rf"(?: or (?:register|sign ?up|create an account|join))?(?: first)?"
        rf"(?: (?:to|before|in order to) (?:continue|proceed|{_VIEW}){_TAIL})",
        rf"(?:in order )?to (?:continue|proceed|{_VIEW}) (?:please|you (?:must|need to|have to)(?: be)?) "
        rf"{_LOGGED}{_TAIL}",
        r"you are not logged in or you do not have permission to access this page.{0,200}",
        rf".{{0,60}}requires you to be (?:registered and )?{_LOGGED}{_TAIL}",
        r"(?:this|the) (?:page|content|area|forum|section) (?:is (?:only )?(?:available|visible|accessible) (?:only )?"
        rf"(?:to|for) (?:registered|logged in|members){_TAIL}|requires (?:you to|a) ?log ?in{_TAIL})",
    ),
    second=_any(
        r"\b(?:forgot(?:ten)?(?: your)? password|remember me|stay signed in|keep me (?:logged|signed) in)\b",
        rf"\bplease {_LOGGED}\b|\balready (?:a member|have an account|on \w+)\b|\b(?:dont have an|no) account\b",
        rf"\b{_LOGGED} with your\b",
    ),
    marks=_NONE,
)

_HUMAN = r"you(?:re| are)(?: a)? (?:not a (?:ro)?bot|(?:ro)?bot|human)(?: and not a (?:ro)?bot)?"
_PROVE = r"(?:please )?(?:let us know|verify(?:ing)?|confirm|prove|(?:were )?making sure|checking)(?: that| if)?"
_CHECKED = _any(
    rf"{_PROVE} {_HUMAN}|sorry we just need to make sure {_HUMAN}.{{0,200}}|to continue please .{{0,60}}{_HUMAN}",
    r"(?:please wait while we )?(?:are )?check(?:ing)? your browser(?: before .{0,60})?|ddos protection by .{0,40}",
    r"please (?:enable|turn on|allow) (?:js|java ?script|cookies) and .{0,60}",
    r"robot challenge screen|checking the site connection security|were verifying your browser|"
    r"enable java ?script and cookies to continue|request unsuccessful incapsula incident id .{0,60}",
    r".{0,60}unusual (?:traffic|activity) from your computer network.{0,200}",
)
BOT_CHECK = Kind(
    is_what="a check against bots",
    advice="fetch it with a browser, and name that copy",
    named=_any(
        r"(?:just a|one) moment(?: please)?|please wait|attention required|before we continue|client challenge",
        r"(?:robot|bot|human|captcha|browser|security) (?:check|verification|challenge|checkpoint)",
        r"are you (?:a |an )?(?:human|(?:ro)?bot)(?: or a (?:ro)?bot)?|\w+ security checkpoint",
        r"pardon our interruption|ddos guard",
        r"(?:please )?enable cookies|cookies (?:are )?(?:required|disabled)",
    ),
    told=_CHECKED,
    second=_any(
        r"\bnot a (?:ro)?bot\b|\bcaptcha\b|\bray id\b|\bddos\b|\breference id\b|\bredirected? (?:you|to)\b",
        r"\b(?:enable|allow|accept\w*|support\w*) (?:java ?script|cookies)|\bsecurity (?:service|check)",
    ),
    marks=re.compile(
        r"_cf_chl_opt|__cf_chl_|captcha-delivery\.com|/errors/validateCaptcha|<iframe\s[^<>]*_Incapsula_Resource"
        r"""|\bid=["']?(?:px-captcha|anubis_challenge)\b"""
    ),
)

DENIED = Kind(
    is_what="a refusal",
    advice="give a copy that may be read",
    named=_any(
        r"(?:(?:error|http|403|401) )*(?:your )?access (?:is |has been |was )?(?:denied|blocked|restricted|forbidden)",
        r"(?:(?:error|http|403|401) )*(?:forbidden|unauthori[sz]ed)|403 error|error 403|permission denied",
        r"(?:(?:error|http|429) )*too many requests",
        r"request (?:blocked|rejected)|zugriff verweigert|accès (?:refusé|interdit)|acceso (?:denegado|prohibido)",
        r"accesso negato|acesso negado|toegang geweigerd|доступ запрещ[её]н",
    ),
    told=_any(
        r"access to this (?:page|site|resource|website) (?:is |has been |was )?(?:denied|blocked|restricted|forbidden)",
        r"(?:sorry )?(?:you have been|youve been|your (?:access|ip|ip address|request) (?:has been|is|was)) blocked"
        r"(?: by .{1,40})?",
        r"your access to this (?:site|service|page) has been limited.{0,40}",
        r"(?:sorry )?you(?: are|re) not (?:authori[sz]ed|allowed) to (?:access|view) this (?:page|site|resource)",
        r"you (?:do not|dont) have permission to (?:access|view) .{0,80}|the requested url was rejected.{0,120}",
    ),
    second=_any(
        r"\bpermission\b|\bauthori[sz]ed\b|\badministrator\b|\byour ip\b|\breference\b|\bincident\b|\bray id\b"
    ),
    marks=re.compile(r"""\bid=["']?cf-error-details\b|errors(?:\.|&#46;)edgesuite(?:\.|&#46;)net"""),
)

_ERROR_WORDS = _any(
    r"(?:(?:error|http|5\d\d) )*(?:internal server error|bad gateway|service (?:temporarily )?unavailable"
    r"|gateway time ?out)(?: 5\d\d)?|error 5\d\d|5\d\d error",
    r"(?:oops |sorry )*(?:something|an error) (?:went wrong|(?:has )?occurred)|error|application error|server error",
    r"(?:site|website|down for|were down for|closed for) (?:under )?(?:scheduled )?maintenance|account suspended",
)
ERROR = Kind(
    is_what="an error of its server",
    advice="run again with --refresh once the server is well",
    named=_ERROR_WORDS,
    told=_any(r"whitelabel error page|our services arent available right now"),
    second=_any(
        r"\btry (?:again|later)|\bagain later\b|\bsorry\b|\binconvenience\b",
        r"\b(?:be (?:right )?|check )back\b|\bbeing worked on\b",
    ),
    marks=_NONE,
)
KINDS = (BOT_CHECK, NOT_FOUND, LOG_IN, DENIED, ERROR)
