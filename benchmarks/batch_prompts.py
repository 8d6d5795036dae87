"""The questions that batch.py asks: half in English, half in Chinese, all distinct."""

STORY = "Write a long story about an astronomer who discovers a new planet."

QUESTIONS = [
    "Write a story about the stars.",
    "讲一个关于月亮的故事。",
    "Explain how telescopes work.",
    "介绍一下太阳系的八大行星。",
    "Describe Saturn and its rings.",
    "什么是黑洞？请详细解释。",
    "Why is the sky blue? Explain it to a child.",
    "请解释为什么会有四季。",
    "How do galaxies form? Give the main steps.",
    "恒星是怎样诞生和死亡的？",
    "Write a letter from an astronaut on Mars to her family.",
    "写一封信，邀请朋友一起观看流星雨。",
    "Explain the difference between a comet and an asteroid.",
    "望远镜有哪些种类？各有什么优点？",
    "Tell me about the history of astronomy in five paragraphs.",
    "请介绍中国古代的天文学成就。",
]

# About 500 tokens of SmolLM2's vocabulary.
PREFIX = """You are an assistant of an observatory. You answer questions of visitors about the night sky, the planets, \
the stars and the instruments of the observatory. Answer in the language of the question, in full sentences, politely, \
and at some length: say first what the thing is, then how we know it, then where a visitor can see it. Never invent \
numbers; where a number is known, give it with its unit.
你是天文台的讲解员，负责回答参观者关于夜空、行星、恒星和仪器的问题。请用提问的语言回答，语气礼貌。
Question: How far away is the Moon?
Answer: The Moon is about 384,400 kilometres away from us. We know it from laser pulses that are sent to mirrors on \
its surface, which come back after two and a half seconds. You can see it with the naked eye on most clear nights.
问题：太阳有多热？
回答：太阳表面的温度大约是五千五百摄氏度，中心的温度高达一千五百万摄氏度。我们通过分析阳光的光谱知道这一点。
Question: What is a light year?
Answer: A light year is the distance that light travels in one year, about 9.46 trillion kilometres. It measures the \
distances between the stars. The nearest star after the Sun is a little more than four light years away.
问题：木星有多少颗卫星？
回答：木星有九十多颗已知的卫星，其中最大的四颗是伽利略在一六一〇年发现的，用小型望远镜就能看到。"""

PREFIX_QUESTIONS = [
    "What is the Milky Way?",
    "什么是银河系？",
    "How hot is Venus?",
    "金星为什么这么热？",
    "Why does Saturn have rings?",
    "土星的光环是什么？",
    "What is a comet made of?",
    "彗星的尾巴是怎么形成的？",
    "How old is the universe?",
    "宇宙有多大年纪？",
    "What is a supernova?",
    "什么是超新星？",
    "Can I see the space station tonight?",
    "北极星在哪里？",
    "How does the great telescope work?",
    "望远镜能看多远？",
    "What are sunspots?",
    "什么是太阳黑子？",
    "Why do stars twinkle?",
    "星星为什么会眨眼？",
    "What is the largest planet?",
    "最大的行星是哪一颗？",
    "How do we measure the distance of a galaxy?",
    "怎样测量星系的距离？",
    "Is there water on Mars?",
    "火星上有水吗？",
    "What causes an eclipse of the Moon?",
    "月食是怎样发生的？",
    "What is a neutron star?",
    "什么是中子星？",
    "When is the next meteor shower?",
    "流星雨什么时候出现？",
]
