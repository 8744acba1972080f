"""The same few sentences about a lamp in languages of many scripts, and the encodings that were used for them."""

from __future__ import annotations

SENTENCES = {
    "english": (
        "The lamp stands on the table and lights the room. It is made of brass, and its shade can be taken off."
    ),
    "french": (
        "La lampe est posée sur la table et éclaire la pièce. "
        "Elle est en laiton, et l’abat-jour s’enlève très aisément."
    ),
    "german": (
        "Die Lampe steht auf dem Tisch und beleuchtet das Zimmer. "
        "Sie ist aus Messing, größer als üblich und sehr schön."
    ),
    "polish": (
        "Lampa stoi na stole i oświetla pokój ciepłym światłem. Została zrobiona z mosiądzu, a klosz można łatwo zdjąć."
    ),
    "czech": (
        "Lampa stojí na stole a osvětluje místnost teplým světlem. "
        "Je vyrobena z mosazi a stínidlo se dá snadno sejmout."
    ),
    "turkish": (
        "Lamba masanın üzerinde duruyor ve odayı ılık bir ışıkla aydınlatıyor. "
        "Pirinçten yapılmıştır, başlığı çıkarılabilir."
    ),
    "russian": (
        "Лампа стоит на столе и освещает комнату тёплым светом. Она сделана из латуни, а абажур можно легко снять."
    ),
    "greek": (
        "Η λάμπα στέκεται στο τραπέζι και φωτίζει το δωμάτιο με ζεστό φως. Είναι φτιαγμένη από ορείχαλκο και γυαλί."
    ),
    "hebrew": ("המנורה עומדת על השולחן ומאירה את החדר באור חם. היא עשויה מפליז, ואפשר להסיר את האהיל בקלות."),
    "arabic": ("يقف المصباح على الطاولة ويضيء الغرفة بضوء دافئ. وهو مصنوع من النحاس، ويمكن إزالة غطائه بسهولة."),
    "persian": (
        "چراغ روی میز ایستاده است و اتاق را با نوری گرم روشن می‌کند. از برنج ساخته شده است و می‌توان حبابش را برداشت."
    ),
    "hindi": "दीपक मेज़ पर खड़ा है और कमरे को गर्म रोशनी से जगमगाता है। यह पीतल का बना है।",
    "thai": "โคมไฟตั้งอยู่บนโต๊ะและส่องสว่างห้องด้วยแสงอบอุ่น ทำจากทองเหลืองและถอดโป๊ะออกได้",
    "khmer": "ចង្កៀង\u200bឈរ\u200bនៅ\u200bលើ\u200bតុ\u200bហើយ\u200bបំភ្លឺ\u200bបន្ទប់\u200bដោយ\u200bពន្លឺ\u200bក្តៅ។",
    "chinese": "台灯放在桌子上，用温暖的光照亮了整个房间。它是用黄铜做的，灯罩可以很容易地取下来清洗。",
    "japanese": "ランプは机の上に置かれていて、部屋を暖かい光で照らしています。真鍮で作られています。",
    "korean": "램프는 책상 위에 놓여 있으며 따뜻한 빛으로 방을 비춥니다. 놋쇠로 만들어졌고 갓은 쉽게 뺄 수 있습니다.",
    "vietnamese": ("Chiếc đèn đứng trên bàn và chiếu sáng căn phòng bằng ánh sáng ấm áp. Nó được làm bằng đồng thau."),
}

LEGACY = (
    ("french", "windows-1252", "cp1252"),
    ("german", "windows-1252", "cp1252"),
    ("polish", "windows-1250", "cp1250"),
    ("polish", "iso-8859-2", "iso8859_2"),
    ("czech", "windows-1250", "cp1250"),
    ("turkish", "windows-1254", "cp1254"),
    ("russian", "windows-1251", "cp1251"),
    ("russian", "koi8-r", "koi8_r"),
    ("russian", "iso-8859-5", "iso8859_5"),
    ("greek", "windows-1253", "cp1253"),
    ("hebrew", "windows-1255", "cp1255"),
    ("arabic", "windows-1256", "cp1256"),
    ("thai", "windows-874", "cp874"),
    ("chinese", "gb18030", "gb18030"),
    ("chinese", "big5", "big5hkscs"),
    ("japanese", "shift_jis", "cp932"),
    ("japanese", "euc-jp", "euc_jp"),
    ("korean", "euc-kr", "cp949"),
)
"""A language, an encoding of it by its WHATWG name, and Python's codec."""
